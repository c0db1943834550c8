"""PKT: Passalis, Tefas 2018, *Learning Deep Representations with Probabilistic Knowledge Transfer*, 1803.10837."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import flatten

EPSILON = 1e-7  # the authors' value, both for norms and in the logarithm


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over all B^2 pairs of P_t log((P_t + e) / (P_s + e)).

    P_ij = (cos(x_i, x_j) + 1) / 2, divided by its sum over j: the probability that example j is a neighbor of i.
    Vectors are divided by their norm + e, and e = 1e-7. Widths may differ.

    The terms of the plain sum nearly cancel. Each row of P sums to 1, so that the sum over j of P_s - P_t is zero;
    adding it turns every term into a term of a Kullback-Leibler divergence, which is at least 0.

    Differs from the paper, whose divergence omits the pairs i = i: as in the authors' code they are included, and the
    mean is over B^2, to which the published weight belongs. An embedding of norm below 1e-12 counts as zero.

    Args:
        student: embeddings `(B, D)`; further axes are flattened.
        teacher: embeddings `(B, D')`.

    Returns:
        `()` float32, in nats / B, at least 0. Memory: B^2.

    >>> import numpy as np
    >>> orthogonal, equal = np.eye(2), np.ones((2, 3))  # (B, D): P_s has rows 2/3, 1/3; P_t is 1/2 everywhere
    >>> round(float(pkt_loss(orthogonal, equal)), 4)
    0.0294
    """
    p_student, p_teacher = _neighbor_probabilities(student), _neighbor_probabilities(teacher)
    ratio = ops.log((p_teacher + EPSILON) / (p_student + EPSILON))
    divergence = (p_teacher + EPSILON) * (ratio + ops.expm1(-ratio))
    return ops.mean(divergence - EPSILON * ratio)


def _neighbor_probabilities(x: Tensor) -> Tensor:
    """P, `(B, B)`."""
    x = flatten(x)
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    is_zero = square <= 1e-24
    x = ops.where(is_zero, 0.0, x / (ops.sqrt(ops.where(is_zero, 1.0, square)) + EPSILON))
    similarity = ops.maximum((ops.matmul(x, ops.transpose(x)) + 1) / 2, 0.0)  # rounding may give a cosine below -1
    return similarity / ops.sum(similarity, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("kd_keras")
class PKT(TapPairMethod):
    """The examples that are neighbors for the teacher are neighbors for the student.

    There are no adapters. Neighbors are those within a batch, by default the slice on each replica.

    Args:
        across_replicas: whether to compare the examples of the global batch.
        **options: `student_tap` and `teacher_tap`, by default the embedding, summed over several taps; `weight`, by
            default 30000 as in the published CIFAR-100 tables, with a hard loss of 1 and batches of 64; `name`. The
            loss falls with the batch size: tune the weight for others.

    >>> PKT().weight
    30000.0
    """

    least_examples = 2
    family = "relations"
    paper = "Passalis, Tefas 2018, 1803.10837"
    taps = Taps(("embedding",), ("embedding",))
    default_weight = 30000.0

    def __init__(self, *, across_replicas: bool = False, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return sum(pkt_loss(*pair) for pair in zip(*self.tensors(student, teacher), strict=True))
