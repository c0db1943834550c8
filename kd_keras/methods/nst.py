"""NST: Huang, Wang 2017, *Like What You Like: Knowledge Distill via Neuron Selectivity Transfer*, 1707.01219."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, l2_normalize, pooled_to_common_size


def nst_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The squared maximum mean discrepancy of the channels' activation patterns, summed over pairs of maps.

    Every channel is a unit vector over the positions, and k(A, B) is the mean over pairs of channels of (a . b)^2, the
    polynomial kernel of degree 2: L = k(t, t) + k(s, s) - 2 k(s, t). The larger map of a pair is average-pooled to the
    smaller; the channels may differ. k(t, t) has no gradient and is part of the value.

    Memory: with P = H W positions, B min(P, C)^2, by products of matrices. With the Gram matrices of the channels
    K = A^T A (P, P), the same loss is the squared norm of K_t / C_t - K_s / C_s: no terms cancel, so this is computed
    where P is not the larger.

    Args:
        student: maps `(B, H, W, C)`; one map alone may come without its list.
        teacher: maps, as many, of any size and width.

    Returns:
        `(B,)` float32, 0 or more but for rounding.

    >>> import numpy as np
    >>> here, there = np.zeros((2, 1, 1, 2, 1))
    >>> here[..., 0, :], there[..., 1, :] = 1, 1
    >>> nst_loss(here, there).numpy().tolist()  # (B,): k(t, t) = k(s, s) = 1, k(s, t) = 0
    [2.0]
    """
    return sum(_discrepancy(*map(_patterns, pooled_to_common_size(s, t))) for s, t in _pairs(student, teacher))


def _pairs(student: list[Tensor], teacher: list[Tensor]) -> zip:
    return zip(as_list(student), as_list(teacher), strict=True)


def _patterns(maps: Tensor) -> Tensor:
    """The channels of `(B, H, W, C)` as unit vectors, `(B, H W, C)`."""
    _, rows, columns, width = maps.shape
    return l2_normalize(ops.reshape(maps, (-1, rows * columns, width)), axis=1)


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    positions = student.shape[1]
    if positions <= min(student.shape[2], teacher.shape[2]):
        return _total(_over_channels(teacher) - _over_channels(student))
    return _kernel(teacher, teacher) + _kernel(student, student) - 2 * _kernel(student, teacher)


def _over_channels(patterns: Tensor) -> Tensor:
    """The mean over channels of each pattern's outer product with itself, `(B, P, P)`."""
    return ops.matmul(patterns, ops.transpose(patterns, (0, 2, 1))) / patterns.shape[2]


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    """k(one, other), `(B,)`."""
    return _total(ops.matmul(ops.transpose(one, (0, 2, 1)), other)) / (one.shape[2] * other.shape[2])


def _total(x: Tensor) -> Tensor:
    return ops.sum(ops.square(x), axis=(1, 2))


@keras.saving.register_keras_serializable("kd_keras")
class NST(TapPairMethod):
    """The distribution of the student's channels, as patterns over space, follows the teacher's.

    It has no adapters: widths may differ, and the larger map is average-pooled. The stages are paired in order.

    Args:
        student_tap: the student's maps, by default those of all stages.
        teacher_tap: the teacher's maps, as many.
        weight: 50 in the published CIFAR-100 tables, beside a hard loss of 1; tune it for other pairs.
        name: the term's name in the log.
    """

    family = "features"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages",
        teacher_tap: str | Sequence[str] = "stages",
        weight: Weight = 50.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher, rank=4)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return nst_loss(*self.tensors(student, teacher))
