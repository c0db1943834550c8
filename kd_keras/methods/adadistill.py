"""AdaDistill: Boutros et al. 2024, *AdaDistill: Adaptive Knowledge Distillation for Deep Face Recognition*,
2407.01332, section 3. In the form of the authors' code, with adaptive weights."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_choice, check_whole_number, explain_mismatch
from kd_keras.faces.margins import center_cosines, check_identities, margin_loss, published_margin
from kd_keras.methods.adapters import describe_pair
from kd_keras.methods.base import Method, MethodOptions, Specs, Taps
from kd_keras.methods.labels import class_indices, weighted_batch_mean
from kd_keras.primitives import keep_finite, l2_normalize

HEADS = ("arcface", "cosface")
MARGINS = {"arcface": 0.45, "cosface": 0.35}
SMALLEST = 1e-6  # to which the authors' code raises weights


def adadistill_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    head: str = "arcface",
    scale: float = 64.0,
    margin: float | None = None,
) -> Tensor:
    """The margin softmax of the student's embeddings over the centers after `adadistill_centers`.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D)`.
        labels: `(B,)` integers from 0 to K - 1; the loss of any other label is NaN.
        centers: `(K, D)` before the batch.
        head: "arcface" or "cosface".
        scale: s > 0.
        margin: m, by default 0.45 for ArcFace and 0.35 for CosFace.

    Returns:
        `(B,)` float32, in nats. The centers get no gradient.

    >>> import numpy as np
    >>> e, labels = np.array([[0.6, 0.8]]), np.array([1])
    >>> loss = adadistill_loss(e, np.array([[0.0, 1.0]]), labels, np.eye(2), head="cosface", scale=1.0, margin=0.2)
    >>> round(float(loss[0]), 4)  # the second center stays (0, 1): log 2, because 0.8 - 0.2 = 0.6
    0.6931
    """
    check_choice("adadistill_loss", "head", head, HEADS)
    softmax = published_margin(head, scale, MARGINS[head] if margin is None else margin)
    updated = adadistill_centers(student, teacher, labels, centers)
    return margin_loss(center_cosines(student, ops.transpose(updated)), labels, softmax)


def adadistill_centers(student: Tensor, teacher: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """The centers after a batch: w_y becomes a w_y + (1 - a) e_t, with a = cos(e_s, e_t) cos(w_y, e_t).

    e_t has unit length. The second cosine and a are raised to at least 1e-6. Of an identity with several examples in
    the batch, it is the mean over these; the authors' code keeps that of one of them.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D)`.
        labels: `(B,)` integers from 0 to K - 1; others change no center.
        centers: `(K, D)`.

    Returns:
        `(K, D)` float32, without a gradient.

    >>> import numpy as np
    >>> centers, e_t = np.eye(2), np.array([[0.0, 2.0]])
    >>> adadistill_centers(np.array([[0.6, 0.8]]), e_t, np.array([0]), centers).numpy().round(3).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    student, teacher = (ops.stop_gradient(l2_normalize(side)) for side in (student, teacher))
    centers, count = ops.cast(ops.stop_gradient(centers), "float32"), centers.shape[0]
    labels = ops.cast(labels, "int32")
    is_known = ops.logical_and(labels >= 0, labels < count)
    rows = ops.where(is_known, labels, 0)
    current = ops.take(centers, rows, axis=0)
    near = ops.clip(ops.sum(l2_normalize(current) * teacher, axis=-1), SMALLEST, 1.0)
    keep = ops.clip(ops.sum(student * teacher, axis=-1) * near, SMALLEST, 1.0)[:, None]
    known = ops.cast(is_known, "float32")[:, None]
    moved = (keep * current + (1.0 - keep) * teacher) * known
    sums = ops.segment_sum(ops.concatenate([moved, known], axis=-1), rows, num_segments=count)
    total, examples = sums[:, :-1], sums[:, -1:]
    return ops.where(examples > 0, total / ops.maximum(examples, 1.0), centers)


@keras.saving.register_keras_serializable("kd_keras")
class AdaDistill(Method):
    """The student learns the labels by a margin softmax over centers that follow the teacher's embeddings.

    At first the centers are the teacher's embeddings of single images, because a is small; the more student and teacher
    agree, the more the centers become means over many images, which are harder to reach. No head of the teacher is
    needed, and none of the student (`hard_weight=0`). Both embeddings must have the same width. All replicas have the
    same centers.

    Args:
        classes: K, the number of training identities.
        head: "arcface" or "cosface".
        scale: s > 0.
        margin: m, by default 0.45 for ArcFace and 0.35 for CosFace.
        **options: `weight`, by default 1, without a hard loss; `name`.

    >>> AdaDistill(classes=40).classes
    40
    """

    family = "embeddings"
    paper = "Boutros et al. 2024, 2407.01332"
    taps = Taps(("embedding",), ("embedding",))
    published_hard_weight = 0.0
    across_replicas = True
    weighs_examples = True

    def __init__(
        self,
        *,
        classes: int,
        head: str = "arcface",
        scale: float = 64.0,
        margin: float | None = None,
        **options: Unpack[MethodOptions],
    ):
        super().__init__(**options)
        self.classes = check_whole_number("AdaDistill", "classes", classes)
        self.head = check_choice("AdaDistill", "head", head, HEADS)
        published_margin(head, scale, margin)
        self.scale, self.margin = scale, margin

    def bind(self, student: Specs, teacher: Specs) -> None:
        specs = student["embedding"], teacher["embedding"]
        if any(len(spec.shape) != 2 for spec in specs) or specs[0].shape[-1] != specs[1].shape[-1]:
            expected = f"embeddings (B, D) of one width for method {self.name!r}"
            advice = "build the student with dimension=, or use Embedding, which has an adapter"
            raise ValueError(explain_mismatch(expected, describe_pair(*specs), advice))
        self.centers = self.add_weight(
            name="centers",
            shape=(self.classes, specs[1].shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
            trainable=False,
            aggregation="only_first_replica",
        )
        super().bind(student, teacher)

    def check_batch(self, batch: Batch) -> None:
        labels = class_indices(batch.label)
        if labels is not None:
            check_identities(labels, self.classes, f"AdaDistill(classes={self.classes})")

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        labels = class_indices(batch.label)
        if labels is None:
            advice = "use Embedding for images without labels"
            raise ValueError(explain_mismatch(f"labels (B,) for method {self.name!r}", "none", advice))
        sides, before = (student["embedding"], teacher["embedding"]), self.centers.value
        loss = adadistill_loss(*sides, labels, before, head=self.head, scale=self.scale, margin=self.margin)
        self.centers.assign(keep_finite(adadistill_centers(*sides, labels, before), before))
        return weighted_batch_mean(loss, batch)
