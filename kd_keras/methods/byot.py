"""BYOT: Zhang et al. 2019, *Be Your Own Teacher*, 1905.08094, equations 2 to 5."""

from __future__ import annotations

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import linear
from kd_keras.methods.base import Method, Specs, Taps
from kd_keras.methods.labels import check_same_classes
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import softened_kl


def byot_loss(
    student: list[Tensor], teacher: Tensor, labels: Tensor, *, alpha: float = 0.3, temperature: float = 3.0
) -> Tensor:
    """The sum over exits of (1 - alpha) CE(softmax(z_i), y) + alpha T^2 KL(softmax(z_t / T) || softmax(z_i / T)).

    Args:
        student: the logits z_i `(B, K)` of each exit.
        teacher: the logits z_t `(B, K)` that they follow: the deepest exit's, detached, or a teacher's.
        labels: `(B,)` integer classes or `(B, K)` probabilities.
        alpha: share of the teacher, in [0, 1].
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, 0 or more.

    >>> import numpy as np
    >>> zeros = np.zeros((1, 2), "float32")
    >>> round(float(byot_loss([zeros, zeros], zeros, np.array([1]))[0]), 4)  # 2 (1 - 0.3) log 2
    0.9704
    """
    hard = sum(_cross_entropy(logits, labels) for logits in student)
    soft = sum(softened_kl(logits, teacher, temperature) for logits in student)
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def byot_features_loss(student: list[Tensor], teacher: Tensor) -> Tensor:
    """The sum over exits of ||F_i - F_C||_2, equation 5: the norm itself, as published, not its square.

    Args:
        student: what each exit reads, F_i `(B, D)`.
        teacher: what the deepest reads, F_C `(B, D)`, detached.

    Returns:
        `(B,)` float32; where F_i equals F_C its gradient is zero.

    >>> import numpy as np
    >>> float(byot_features_loss([np.array([[3.0, 4.0]])], np.zeros((1, 2)))[0])
    5.0
    """
    teacher = ops.cast(teacher, "float32")
    squares = [ops.sum(ops.square(ops.cast(each, "float32") - teacher), axis=-1) for each in student]
    return sum(ops.where(square > 0, ops.sqrt(ops.where(square > 0, square, 1.0)), 0.0) for square in squares)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == 1 or labels.shape[-1] == 1:
        labels = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), log_p.shape[-1])
    return -ops.sum(ops.cast(labels, "float32") * log_p, axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class BYOT(Method):
    """The exits of a multi-exit network learn from its deepest one, or all of them from a teacher.

    The student is one that `models.multi_exit` made, whose layers `"exit1"`, `"exit1_features"`, ... the method taps.
    Without a teacher every exit but the deepest takes (1 - alpha) of the labels and alpha of the deepest exit's
    softened answer, and its features follow the deepest one's; the deepest learns from the labels alone. With
    `from_teacher` every exit, the deepest too, learns from the teacher's logits in the deepest's place. The hard loss,
    which is that of the summed prediction, comes on top: `hard_weight=0` is the published training.

    Exits whose features have another width than the deepest one's get a linear map to it, as published.

    Args:
        from_teacher: whether a teacher's logits are followed.
        alpha: share of the softened answer beside the labels, in [0, 1]; published 0.3.
        temperature: T > 0; published 3.
        feature_weight: what the distance of features is multiplied by; published 0.03 (an MMRazor configuration sets
            it to 0 for the exit before the deepest).
        weight: 1; the hard loss then has weight 0.
        name: the term's name in the log.
    """

    family = "self"
    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        from_teacher: bool = False,
        alpha: float = 0.3,
        temperature: float = 3.0,
        feature_weight: float = 0.03,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        self.from_teacher = bool(from_teacher)
        self.alpha = check_number("BYOT", "alpha", alpha)
        if not 0 <= self.alpha <= 1:
            raise ValueError(explain_mismatch("BYOT(alpha=...) in [0, 1]", repr(alpha)))
        self.temperature = check_number("BYOT", "temperature", temperature, above=0)
        self.feature_weight = check_number("BYOT", "feature_weight", feature_weight)
        self.taps = Taps(("exit?", "exit?_features"), ("logits",) if self.from_teacher else ())

    def bind(self, student: Specs, teacher: Specs) -> None:
        answers, features = student["exit?"], student["exit?_features"]
        if len(answers) < 2 or len(answers) != len(features):
            came = f"{[spec.layer for spec in answers]} and {[spec.layer for spec in features]}"
            raise ValueError(explain_mismatch("two or more exits, each with features", came, "make it by models.multi_exit"))
        if self.from_teacher:
            check_same_classes(answers[-1], teacher["logits"])
        # Taps of a pattern come in the graph's order; the exits' names have theirs.
        self._order = [sorted(range(len(specs)), key=lambda i: specs[i].layer) for specs in (answers, features)]
        features = [features[place] for place in self._order[1]]
        width = features[-1].shape[-1]
        self.adapters = [linear(spec, width) if spec.shape[-1] != width else None for spec in features[:-1]]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        if batch.label is None:
            raise ValueError(explain_mismatch("labels for BYOT", "none", "its exits learn from labels too"))
        answers = [student["exit?"][place] for place in self._order[0]]
        *shallow, deepest = [student["exit?_features"][place] for place in self._order[1]]
        options = {"alpha": self.alpha, "temperature": self.temperature}
        if self.from_teacher:
            logits = byot_loss(answers, teacher["logits"], batch.label, **options)
        else:
            logits = byot_loss(answers[:-1], ops.stop_gradient(answers[-1]), batch.label, **options)
            logits = logits + _cross_entropy(answers[-1], batch.label)
        shallow = [adapter(one) if adapter else one for adapter, one in zip(self.adapters, shallow)]
        return logits + self.feature_weight * byot_features_loss(shallow, ops.stop_gradient(deepest))
