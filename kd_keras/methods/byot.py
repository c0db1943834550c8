"""BYOT: Zhang et al. 2019, *Be Your Own Teacher*, 1905.08094, equations 2 to 5."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import dense_adapter
from kd_keras.methods.base import Method, MethodOptions, Specs, Taps
from kd_keras.methods.labels import (
    check_one_prediction,
    check_same_classes,
    check_same_positions,
    cross_entropy,
    match_units,
    refuse_binary,
    weighted_batch_mean,
)
from kd_keras.primitives import root, softened_kl


def byot_loss(
    student: list[Tensor], teacher: Tensor, labels: Tensor, *, alpha: float = 0.3, temperature: float = 3.0
) -> Tensor:
    """The sum over exits of (1 - alpha) CE(softmax(z_i), y) + alpha T^2 KL(softmax(z_t / T) || softmax(z_i / T)).

    Args:
        student: the logits z_i `(B, K)` of each exit.
        teacher: the logits z_t `(B, K)` that they follow: those of the deepest exit, detached, or a teacher's.
        labels: `(B,)` integer classes or `(B, K)` probabilities.
        alpha: the fraction of the teacher's part, in [0, 1].
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, at least 0.

    >>> import numpy as np
    >>> zeros = np.zeros((1, 2), "float32")
    >>> round(float(byot_loss([zeros, zeros], zeros, np.array([1]))[0]), 4)  # 2 (1 - 0.3) log 2
    0.9704
    """
    hard = sum(cross_entropy(logits, labels) for logits in student)
    soft = sum(softened_kl(logits, teacher, temperature) for logits in student)
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def byot_features_loss(student: list[Tensor], teacher: Tensor) -> Tensor:
    """The sum over exits of ||F_i - F_C||_2, equation 5: the norm itself, as published, not its square.

    Args:
        student: the features F_i `(B, D)` that each exit reads.
        teacher: the features F_C `(B, D)` that the deepest exit reads, detached.

    Returns:
        `(B,)` float32, at least 0; its gradient is zero if F_i equals F_C.

    >>> import numpy as np
    >>> float(byot_features_loss([np.array([[3.0, 4.0]])], np.zeros((1, 2)))[0])
    5.0
    """
    teacher = ops.cast(teacher, "float32")
    squares = [ops.sum(ops.square(ops.cast(features, "float32") - teacher), axis=-1) for features in student]
    return sum(map(root, squares))


@keras.saving.register_keras_serializable("kd_keras")
class BYOT(Method):
    """The exits of a multi-exit network learn from its deepest exit, or all of them from a teacher.

    The student is a network of `models.multi_exit`, whose layers `"exit1"`, `"exit1_features"`, ... the method taps.
    Without a teacher, every exit but the deepest takes (1 - alpha) of its loss from the labels and alpha from the
    softened predictions of the deepest exit, and its features follow those of the deepest exit, which learns from the
    labels only. With `from_teacher`, all exits, also the deepest, follow the logits of a teacher instead. The compiled
    hard loss, that of the summed predictions, is added; `hard_weight=0` is the published training.

    Exits with features of another width than the deepest exit's get a linear layer to that width, as published. As in
    the authors' code, the distance of features is the norm over the whole batch, to which the weight of 0.03 belongs,
    and the exit before the deepest has none. It is that of the global batch on any number of replicas.

    Args:
        from_teacher: whether the exits follow a teacher.
        alpha: the fraction of the softened predictions, in [0, 1]; 0.3 as published.
        temperature: T > 0; 3 as published.
        feature_weight: the weight of the feature distance; 0.03 as published.
        **options: `weight`, by default 1 as published, without a hard loss; `name`.

    >>> BYOT(from_teacher=True).taps.teacher
    ('logits',)
    """

    family = "self"
    paper = "Zhang et al. 2019, 1905.08094"
    taps = Taps(("exit?", "exit?_features"), ())
    published_hard_weight = 0.0
    weighs_examples = True
    across_replicas = True  # for the norm over the batch

    def __init__(
        self,
        *,
        from_teacher: bool = False,
        alpha: float = 0.3,
        temperature: float = 3.0,
        feature_weight: float = 0.03,
        **options: Unpack[MethodOptions],
    ):
        super().__init__(**options)
        self.from_teacher = bool(from_teacher)
        self.alpha = check_number("BYOT", "alpha", alpha, least=0, most=1)
        self.temperature = check_number("BYOT", "temperature", temperature, above=0)
        self.feature_weight = check_number("BYOT", "feature_weight", feature_weight)
        if self.from_teacher:
            self.taps = Taps(self.taps.student, ("logits",))

    def bind(self, student: Specs, teacher: Specs) -> None:
        logits, features = student["exit?"], student["exit?_features"]
        if len(logits) < 2 or len(logits) != len(features):
            received = f"exits {[spec.layer for spec in logits]} and features {[spec.layer for spec in features]}"
            expected = f"two or more exits with features for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, received, "build the student with models.multi_exit"))
        check_one_prediction(self.name, logits[-1].shape)
        if logits[-1].shape[-1] < 2:
            expected = f"exits of two or more classes for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, f"logits of shape {logits[-1].shape}"))
        if self.from_teacher:
            check_same_positions(self.name, logits[-1], teacher["logits"])
            if check_same_classes(logits[-1], teacher["logits"]):
                raise ValueError(refuse_binary(self.name, logits[-1], teacher["logits"]))
        # The taps of a pattern come in the order of the graph; the names number the exits by depth.
        self._order = [sorted(range(len(specs)), key=lambda i: specs[i].layer) for specs in (logits, features)]
        features = [features[index] for index in self._order[1]]
        width = features[-1].shape[-1]
        self.adapters = [dense_adapter(spec, width) if spec.shape[-1] != width else None for spec in features[:-2]]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        if batch.label is None:
            raise ValueError("Method BYOT needs labels, but the batch has none. Its exits learn from the labels too.")
        logits = [student["exit?"][index] for index in self._order[0]]
        *shallow, _, deepest = [student["exit?_features"][index] for index in self._order[1]]
        options = {"alpha": self.alpha, "temperature": self.temperature}
        if self.from_teacher:
            loss = byot_loss(logits, match_units(teacher["logits"], logits[-1]), batch.label, **options)
        else:
            loss = byot_loss(logits[:-1], ops.stop_gradient(logits[-1]), batch.label, **options)
            loss = loss + cross_entropy(logits[-1], batch.label)
        adapted = [
            adapter(features) if adapter else features for adapter, features in zip(self.adapters, shallow, strict=True)
        ]
        return weighted_batch_mean(loss, batch) + self.feature_weight * _norms_over_batch(adapted, deepest, batch)


def _norms_over_batch(student: list[Tensor], teacher: Tensor, batch: Batch) -> Tensor:
    """`()`: the sum over exits of the norm of the differences of a whole batch, the root of the weighted squares."""
    if not student:
        return ops.zeros(())
    scale = 1.0 if batch.weight is None else ops.sqrt(ops.cast(ops.reshape(batch.weight, (-1, 1)), "float32"))
    whole = [ops.reshape(scale * ops.cast(x, "float32"), (1, -1)) for x in (*student, ops.stop_gradient(teacher))]
    return byot_features_loss(whole[:-1], whole[-1])[0]
