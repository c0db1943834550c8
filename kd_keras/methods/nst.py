"""NST: Huang, Wang 2017, *Like What You Like: Knowledge Distill via Neuron Selectivity Transfer*, 1707.01219."""

from __future__ import annotations

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.base import Specs, TapPairMethod, Taps
from kd_keras.primitives import as_list, l2_normalize, pooled_to_common_size


def nst_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The squared maximum mean discrepancy of the channels' activation patterns, summed over pairs of maps.

    Every channel is a unit vector over the positions, and k(A, B) is the mean over pairs of channels of (a . b)^2, the
    polynomial kernel of degree 2: L = k(t, t) + k(s, s) - 2 k(s, t). The larger map of a pair is average-pooled to the
    smaller; the numbers of channels may differ. k(t, t) has no gradient and is part of the value.

    With P = H W positions and the matrices K = A^T A `(P, P)` of the channels, the loss is also the squared norm of
    K_t / C_t - K_s / C_s, in which nothing cancels; it is computed in this form if P is at most the number of channels.

    Args:
        student: maps `(B, H, W, C)`; a single map needs no list.
        teacher: as many maps, of any size and width.

    Returns:
        `(B,)` float32, at least 0 except for rounding. Memory: B P^2 in the second form, else B times the square of
        the larger number of channels.

    >>> import numpy as np
    >>> left, right = np.zeros((2, 1, 1, 2, 1))
    >>> left[..., 0, :], right[..., 1, :] = 1, 1
    >>> nst_loss(left, right).numpy().tolist()  # (B,): k(t, t) = k(s, s) = 1, k(s, t) = 0
    [2.0]
    """
    pairs = zip(as_list(student), as_list(teacher), strict=True)
    return sum(_discrepancy(*map(_patterns, pooled_to_common_size(*pair))) for pair in pairs)


def _patterns(maps: Tensor) -> Tensor:
    """The channels of `(B, H, W, C)` as unit vectors, `(B, H W, C)`."""
    _, rows, columns, width = maps.shape
    return l2_normalize(ops.reshape(maps, (-1, rows * columns, width)), axis=1)


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    positions = student.shape[1]
    if positions <= min(student.shape[2], teacher.shape[2]):
        return _sum_of_squares(_mean_outer_product(teacher) - _mean_outer_product(student))
    return _mean_kernel(teacher, teacher) + _mean_kernel(student, student) - 2 * _mean_kernel(student, teacher)


def _mean_outer_product(patterns: Tensor) -> Tensor:
    """The mean over channels of each pattern's outer product with itself, `(B, P, P)`."""
    return ops.matmul(patterns, ops.transpose(patterns, (0, 2, 1))) / patterns.shape[2]


def _mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """k(a, b), `(B,)`."""
    return _sum_of_squares(ops.matmul(ops.transpose(a, (0, 2, 1)), b)) / (a.shape[2] * b.shape[2])


def _sum_of_squares(x: Tensor) -> Tensor:
    return ops.sum(ops.square(x), axis=(1, 2))


@keras.saving.register_keras_serializable("kd_keras")
class NST(TapPairMethod):
    """The distribution of the student's channels, as patterns over space, follows the teacher's.

    There are no adapters: widths may differ, and the larger map is average-pooled. The stages are paired in order.

    Args:
        **options: `student_tap` and `teacher_tap`, by default all stages; `weight`, by default 50 as in the published
            CIFAR-100 tables, with a hard loss of 1; `name`. Tune the weight for other pairs of networks.

    >>> NST().weight
    50.0
    """

    family = "features"
    paper = "Huang, Wang 2017, 1707.01219"
    taps = Taps(("stages",), ("stages",))
    default_weight = 50.0

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher, rank=4)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return nst_loss(*self.tensors(student, teacher))
