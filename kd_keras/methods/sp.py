"""SP: Tung, Mori 2019, *Similarity-Preserving Knowledge Distillation*, 1907.09682, section 3."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import flatten, l2_normalize


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||G_t - G_s||_F^2 / B^2, where G = F F^T with rows normalized to unit vectors, and F are the flattened features.

    Sizes and widths of the two sides may differ.

    Args:
        student: features `(B, ...)` of one tap.
        teacher: features `(B, ...)`.

    Returns:
        `()` float32, from 0 to 4 / B. Memory: B^2, in addition to the features.

    >>> import numpy as np
    >>> orthogonal, equal = np.eye(2), np.ones((2, 3))  # (B, D)
    >>> round(float(sp_loss(orthogonal, equal)), 4)  # 2 - sqrt(2), twice, over 4
    0.2929
    """
    return ops.mean(ops.square(_similarities(teacher) - _similarities(student)))


def _similarities(features: Tensor) -> Tensor:
    features = flatten(features)
    return l2_normalize(ops.matmul(features, ops.transpose(features)))


@keras.saving.register_keras_serializable("kd_keras")
class SP(TapPairMethod):
    """Examples that are similar for the teacher become similar for the student.

    There are no adapters. The similarities are those within a batch, by default the slice on each replica.

    Args:
        across_replicas: whether to compare the examples of the global batch.
        **options: `student_tap` and `teacher_tap`, by default the last stage, summed over several taps; `weight`, by
            default 3000 as in the published CIFAR-100 tables, with a hard loss of 1 and batches of 64; `name`. The loss
            falls with the batch size: tune the weight for others.

    >>> SP().taps.student
    ('stages[-1]',)
    """

    least_examples = 2
    family = "relations"
    paper = "Tung, Mori 2019, 1907.09682"
    taps = Taps(("stages[-1]",), ("stages[-1]",))
    default_weight = 3000.0

    def __init__(self, *, across_replicas: bool = False, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return sum(sp_loss(*pair) for pair in zip(*self.tensors(student, teacher), strict=True))
