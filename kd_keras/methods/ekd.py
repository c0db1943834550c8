"""EKD: Huang et al. 2022, *Evaluation-oriented Knowledge Distillation for Deep Face Recognition*, 2206.02325,
section 3. In the form of the authors' code (Tencent's TFace)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.labels import class_indices
from kd_keras.primitives import l2_normalize

RATES = tuple(10.0**-power for power in range(1, 7))  # the false positive rates of the anchors
NO_PAIR = -2.0  # less than any cosine


def ekd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_anchors: Tensor,
    teacher_anchors: Tensor,
    *,
    positive_weight: float = 0.02,
    negative_weight: float = 0.01,
    hardest: int = 2000,
    temperature: float = 0.01,
) -> Tensor:
    """w_p mean_{pairs of one identity} (r_s - r_t)^2 + w_n mean_{hardest pairs of two identities} (r_s - r_t)^2.

    A pair of similarity c, a cosine, has the rank `r = sum_a sigmoid((c - anchor_a) / T)`: the number of thresholds
    that it passes. The hardest pairs are those with the largest similarities for the student. If several pairs are as
    similar as the last of them, all of these count.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D')`.
        labels: `(B,)` integers, the identities.
        student_anchors: `(A,)` thresholds of the student's similarities, from `ekd_anchors`.
        teacher_anchors: `(A,)` thresholds of the teacher's.
        positive_weight: w_p.
        negative_weight: w_n.
        hardest: the number of pairs of two identities that count.
        temperature: T > 0.

    Returns:
        `()` float32, at least 0. Without pairs of a kind, their term is 0. Memory: O(A B^2).

    >>> import numpy as np
    >>> vectors, same = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    >>> anchors = np.array([0.5])
    >>> round(float(ekd_loss(vectors, same, np.array([3, 3]), anchors, anchors)), 4)  # 0.02 (0 - 1)^2
    0.02
    """
    similarities = [_similarities(side) for side in (student, teacher)]
    is_positive, is_negative = _pairs(labels)
    ranks = [
        ops.sum(ops.sigmoid((c[..., None] - ops.cast(anchors, "float64")) / temperature), axis=-1)
        for c, anchors in zip(similarities, (student_anchors, teacher_anchors), strict=True)
    ]
    square = ops.square(ranks[0] - ops.stop_gradient(ranks[1]))
    ordered, count = _sorted_negatives(similarities[0], is_negative)
    last = ops.take(ordered, ops.maximum(ops.minimum(count, hardest) - 1, 0))
    is_hardest = ops.logical_and(is_negative, similarities[0] >= ops.stop_gradient(last))
    loss = positive_weight * _mean(square, is_positive) + negative_weight * _mean(square, is_hardest)
    return ops.cast(loss, "float32")


def ekd_anchors(
    embedding: Tensor, labels: Tensor, anchors: Tensor, *, momentum: float = 0.01, rates: Sequence[float] = RATES
) -> Tensor:
    """The thresholds of one network, moved toward those of a batch: (1 - momentum) earlier + momentum new.

    Of the n pairs of two identities in the batch, the new threshold for a false positive rate f is the similarity of
    the pair with the number floor(n f), counted from 0 in falling order.

    Args:
        embedding: `(B, D)`.
        labels: `(B,)` integers, the identities.
        anchors: `(A,)` the earlier thresholds; zeros before the first batch.
        momentum: the part of the new thresholds, above 0, at most 1; 0.01 in the authors' code.
        rates: A false positive rates, below 1.

    Returns:
        `(A,)` float32; the earlier ones if the batch has no pair of two identities, or is not finite. No gradient.

    >>> import numpy as np
    >>> vectors = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # similarities 0.6, 0.0 and 0.8
    >>> ekd_anchors(vectors, np.array([0, 1, 2]), np.zeros(1), momentum=0.5, rates=(0.1,)).numpy().round(4).tolist()
    [0.4000000059604645]
    """
    _, is_negative = _pairs(labels)
    similarities = ops.stop_gradient(_similarities(embedding))
    ordered, count = _sorted_negatives(similarities, is_negative)
    # 1 / rate, because floor(n * 0.1) may be one too small by rounding
    indices = ops.stack([count // round(1 / rate) for rate in rates])
    anchors = ops.cast(anchors, "float32")
    new = ops.cast(ops.take(ordered, indices), "float32")
    is_usable = ops.logical_and(count > 0, ops.all(ops.isfinite(similarities)))
    return ops.where(is_usable, (1 - momentum) * anchors + momentum * new, anchors)


def _similarities(embedding: Tensor) -> Tensor:
    """The cosines `(B, B)` of all pairs, in float64 because the ranks divide them by T, by default 0.01."""
    x = l2_normalize(embedding, dtype="float64")
    return ops.matmul(x, ops.transpose(x))


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs i < j of one identity and those of two, booleans `(B, B)`."""
    labels = ops.convert_to_tensor(labels)
    is_same, index = ops.equal(labels[:, None], labels[None, :]), ops.arange(ops.shape(labels)[0], dtype="int32")
    is_pair = index[:, None] < index[None, :]
    return ops.logical_and(is_pair, is_same), ops.logical_and(is_pair, ops.logical_not(is_same))


def _sorted_negatives(similarities: Tensor, is_negative: Tensor) -> tuple[Tensor, Tensor]:
    """The similarities of the pairs of two identities, falling, then NO_PAIR; and the number of these pairs."""
    values = ops.reshape(ops.where(is_negative, ops.stop_gradient(similarities), NO_PAIR), (-1,))
    return ops.flip(ops.sort(values), axis=0), ops.sum(ops.cast(is_negative, "int32"))


def _mean(values: Tensor, is_counted: Tensor) -> Tensor:
    weights = ops.cast(is_counted, "float64")
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1.0)


@keras.saving.register_keras_serializable("kd_keras")
class EKD(TapPairMethod):
    """Pairs pass the same thresholds for the student as for the teacher, each side's own thresholds at given rates.

    Thresholds are the similarities of pairs of two identities at false positive rates of 1e-1 to 1e-6, running means
    over the batches. A batch must have several images of some identities: the authors fill half of it with four images
    of each identity, and `images_per_identity=4` of a recipe or of `data.training` makes such batches. The first
    batches are checked; without pairs of one identity there is a warning, because the loss then compares only pairs of
    two identities. The pairs are those of the global batch. There are no adapters: the widths may differ.

    Args:
        positive_weight: the weight of pairs of one identity, 0.02.
        negative_weight: the weight of pairs of two identities, 0.01.
        hardest: the number of pairs of two identities that count, those most similar for the student.
        temperature: T > 0 of the ranks.
        momentum: the part of a batch's thresholds in the running means. At 0.01 they need hundreds of batches to leave
            0, where they start; raise it for short trainings.
        **options: `student_tap` and `teacher_tap`, by default the embedding; `weight`, by default 1 as published with
            the loss of ArcFace; `name`.

    >>> EKD(momentum=0.1).momentum
    0.1
    """

    family = "embeddings"
    paper = "Huang et al. 2022, 2206.02325"
    taps = Taps(("embedding",), ("embedding",))
    across_replicas = True  # the thresholds must be equal on all replicas
    least_examples = 2

    def __init__(
        self,
        *,
        positive_weight: float = 0.02,
        negative_weight: float = 0.01,
        hardest: int = 2000,
        temperature: float = 0.01,
        momentum: float = 0.01,
        **options: Unpack[TapPairOptions],
    ):
        super().__init__(**options)
        self.positive_weight = check_number("EKD", "positive_weight", positive_weight, least=0)
        self.negative_weight = check_number("EKD", "negative_weight", negative_weight, least=0)
        self.hardest = check_whole_number("EKD", "hardest", hardest)
        self.temperature = check_number("EKD", "temperature", temperature, above=0)
        self.momentum = check_number("EKD", "momentum", momentum, above=0, most=1)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pair(student, teacher, rank=2)
        options = {"initializer": "zeros", "trainable": False, "aggregation": "only_first_replica"}
        self.student_anchors = self.add_weight(name="student_anchors", shape=(len(RATES),), **options)
        self.teacher_anchors = self.add_weight(name="teacher_anchors", shape=(len(RATES),), **options)
        super().bind(student, teacher)

    def check_batch(self, batch: Batch) -> None:
        labels = class_indices(batch.label)
        if labels is None:
            return
        values = ops.convert_to_numpy(labels)
        if len(values) > 1 and len({*values.tolist()}) == len(values):
            expected = f"several images of some identities in each batch for method {self.name!r}"
            received = f"a batch of {len(values)} images of {len(values)} identities"
            warnings.warn(explain_mismatch(expected, received, "pass images_per_identity=4"), stacklevel=2)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        labels = class_indices(batch.label)
        if labels is None:
            advice = "use Embedding, RKD or PKT for images without labels"
            raise ValueError(explain_mismatch(f"labels (B,) for method {self.name!r}", "none", advice))
        (student_embedding,), (teacher_embedding,) = self.tensors(student, teacher)
        anchors = [
            ekd_anchors(embedding, labels, variable, momentum=self.momentum)
            for embedding, variable in (
                (student_embedding, self.student_anchors),
                (teacher_embedding, self.teacher_anchors),
            )
        ]
        self.student_anchors.assign(anchors[0])
        self.teacher_anchors.assign(anchors[1])
        return ekd_loss(
            student_embedding,
            teacher_embedding,
            labels,
            anchors[0],
            anchors[1],
            positive_weight=self.positive_weight,
            negative_weight=self.negative_weight,
            hardest=self.hardest,
            temperature=self.temperature,
        )
