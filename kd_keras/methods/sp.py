"""SP: Tung, Mori 2019, *Similarity-Preserving Knowledge Distillation*, 1907.09682, section 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import flatten, l2_normalize


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||G_t - G_s||_F^2 / B^2, where G = F F^T with rows of unit length, and F are the flattened features.

    Sizes and widths of the two sides may differ. Memory: B^2 beside the features.

    Args:
        student: features `(B, ...)` of one tap.
        teacher: features `(B, ...)`.

    Returns:
        `()` float32, from 0 to 4 / B.

    >>> import numpy as np
    >>> apart, together = np.eye(2), np.ones((2, 3))  # (B, D): two examples, unlike for one and alike for the other
    >>> round(float(sp_loss(apart, together)), 4)  # 2 - sqrt(2), twice, over 4
    0.2929
    """
    return ops.mean(ops.square(_similarities(teacher) - _similarities(student)))


def _similarities(features: Tensor) -> Tensor:
    features = flatten(features)
    return l2_normalize(ops.matmul(features, ops.transpose(features)))


@keras.saving.register_keras_serializable("kd_keras")
class SP(TapPairMethod):
    """Examples that the teacher finds alike are to be alike for the student.

    It has no adapters. Similarities depend on the batch: a replica's part of it by default.

    Args:
        student_tap: the features, by default the last stage's maps; the losses of several taps are summed.
        teacher_tap: what they follow, as many.
        across_replicas: whether to compare the examples of the global batch.
        weight: 3000 in the published CIFAR-100 tables, beside a hard loss of 1 and with 64 examples a batch. The loss
            falls with the batch's size: tune the weight for another.
        name: the term's name in the log.
    """

    family = "relations"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages[-1]",
        teacher_tap: str | Sequence[str] = "stages[-1]",
        across_replicas: bool = False,
        weight: Weight = 3000.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return sum(sp_loss(ours, theirs) for ours, theirs in zip(*self.tensors(student, teacher)))
