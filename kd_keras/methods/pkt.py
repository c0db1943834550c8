"""PKT: Passalis, Tefas 2018, *Learning Deep Representations with Probabilistic Knowledge Transfer*, 1803.10837."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import flatten

EPSILON = 1e-7  # the authors', both beside a norm and inside the logarithm


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over all B^2 pairs of P_t log((P_t + e) / (P_s + e)).

    P_ij = (cos(x_i, x_j) + 1) / 2 over its sum along j: how likely example i has example j for a neighbour. Vectors are
    divided by their norm + e, and e = 1e-7. Widths may differ. Memory: B^2.

    The terms of the plain sum nearly cancel. As each row of P sums to 1, the sum over j of P_s - P_t is zero; added, it
    makes every term one of a Kullback-Leibler divergence that is 0 or more.

    Differs from the paper, whose divergence leaves the pairs i = i out: as in the authors' code they are in, and the
    mean is over B^2, which the published weight is for. An embedding of norm below 1e-12 counts as zero.

    Args:
        student: embeddings `(B, D)`; what has more axes is flattened.
        teacher: embeddings `(B, D')`.

    Returns:
        `()` float32, in nats / B.

    >>> import numpy as np
    >>> apart, together = np.eye(2), np.ones((2, 3))  # (B, D): P_s has rows 2/3, 1/3; P_t is 1/2 everywhere
    >>> round(float(pkt_loss(apart, together)), 4)
    0.0294
    """
    p_student, p_teacher = _neighbours(student), _neighbours(teacher)
    ratio = ops.log((p_teacher + EPSILON) / (p_student + EPSILON))
    divergence = (p_teacher + EPSILON) * (ratio + ops.expm1(-ratio))
    return ops.mean(divergence - EPSILON * ratio)


def _neighbours(x: Tensor) -> Tensor:
    """P, `(B, B)`."""
    x = flatten(x)
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    alive = square > 1e-24
    x = ops.where(alive, x / (ops.sqrt(ops.where(alive, square, 1.0)) + EPSILON), 0.0)
    similarity = ops.maximum((ops.matmul(x, ops.transpose(x)) + 1) / 2, 0.0)  # a cosine of -1 may round to less
    return similarity / ops.sum(similarity, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("kd_keras")
class PKT(TapPairMethod):
    """Which examples are neighbours for the student follows which are for the teacher.

    It has no adapters. Neighbours are sought in the batch: a replica's part of it by default.

    Args:
        student_tap: the vectors, by default the embedding; the losses of several taps are summed.
        teacher_tap: what they follow, as many.
        across_replicas: whether to compare the examples of the global batch.
        weight: 30000 in the published CIFAR-100 tables, beside a hard loss of 1 and with 64 examples a batch. The loss
            falls with the batch's size: tune the weight for another.
        name: the term's name in the log.
    """

    family = "relations"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "embedding",
        teacher_tap: str | Sequence[str] = "embedding",
        across_replicas: bool = False,
        weight: Weight = 30000.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return sum(pkt_loss(ours, theirs) for ours, theirs in zip(*self.tensors(student, teacher)))
