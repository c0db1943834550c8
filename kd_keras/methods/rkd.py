"""RKD: Park, Kim, Lu, Cho 2019, *Relational Knowledge Distillation*, 1904.05068, section 3.2."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.base import Specs, Tapping, Weight, number
from kd_keras.primitives import distances, flat


def rkd_loss(
    student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """The weighed sum of the losses of distances and of angles.

    Args:
        student: embeddings `(B, D)`; what has more axes is flattened.
        teacher: embeddings `(B, D')`.
        distance_weight: of `rkd_distance_loss`, 0 or more.
        angle_weight: of `rkd_angle_loss`, 0 or more.

    Returns:
        `()` float32, 0 or more; zero for a batch of one. Memory: B^3, for the angles.

    >>> import numpy as np
    >>> line, corner = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # (B, D)
    >>> round(float(rkd_loss(line, corner)), 4)
    2.4456
    """
    distance, angle = rkd_distance_loss(student, teacher), rkd_angle_loss(student, teacher)
    return distance_weight * distance + angle_weight * angle


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the Euclidean distances of both sides, each over its mean; the mean over all B^2 pairs.

    The mean distance is that of the positive entries, which are those off the diagonal, as two equal vectors are 1e-6
    apart. The student's mean has a gradient.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D')`.

    Returns:
        `()` float32, 0 or more. Memory: B^2.

    >>> import numpy as np
    >>> even, uneven = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [3.0]])  # (B, D)
    >>> round(float(rkd_distance_loss(even, uneven)), 4)  # 3/4, 3/4, 6/4 against 1/2, 1, 3/2, each twice, over 9
    0.0139
    """
    return _smooth_l1(_over_their_mean(student) - _over_their_mean(teacher))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the cosines of both sides at all corners x_j, x_i, x_k; the mean over all B^3 triples.

    From the centred vectors' Gram matrix, (x_j - x_i) . (x_k - x_i) = G_jk - G_ij - G_ik + G_ii. The cosine is 0 where
    the corner coincides with j or k. So it is, without a gradient, where they are nearer than a thousandth of their
    distance from the batch's mean: float32 does not resolve that direction, and the authors' code divides by nearly 0.
    At a thirtieth of it the loss is right to 1e-5 and its gradient to 1e-4, at a hundredth to 1e-4 and 1e-3.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D')`.

    Returns:
        `()` float32, from 0 to 1.5. Memory: B^3, whatever D is: 1 MB a tensor for 64 examples, 512 MB for 512.

    >>> import numpy as np
    >>> line, corner = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # (B, D)
    >>> round(float(rkd_angle_loss(line, corner)), 4)  # cosines 1, -1, 1 against 0.7, 0, 0.7, each twice, over 27
    0.0434
    """
    return _smooth_l1(_cosines(student) - _cosines(teacher))


def _over_their_mean(x: Tensor) -> Tensor:
    between = distances(flat(x))
    positive = ops.cast(between > 0, "float32")
    mean = ops.sum(between) / ops.maximum(ops.sum(positive), 1.0)
    return between / ops.where(mean > 0, mean, 1.0)


def _cosines(x: Tensor) -> Tensor:
    """The cosine at corner i between the directions to j and to k, `(B, B, B)` for i, j, k."""
    x = flat(x)
    x = x - ops.mean(x, axis=0, keepdims=True)
    gram = ops.matmul(x, ops.transpose(x))
    own = ops.diagonal(gram)
    lengths = own[:, None] + own[None, :]
    square = lengths - 2 * gram
    apart = square > 1e-6 * lengths + 1e-24
    inverse = ops.where(apart, ops.rsqrt(ops.where(apart, square, 1.0)), 0.0) * (1 - ops.eye(ops.shape(x)[0]))
    dots = gram[None, :, :] - gram[:, :, None] - gram[:, None, :] + own[:, None, None]
    return dots * inverse[:, :, None] * inverse[:, None, :]


def _smooth_l1(difference: Tensor) -> Tensor:
    size = ops.abs(difference)
    return ops.mean(ops.where(size < 1, ops.square(size) / 2, size - 0.5))


@keras.saving.register_keras_serializable("kd_keras")
class RKD(Tapping):
    """Distances and angles between the student's embeddings follow those between the teacher's.

    It has no adapters. Relations are those within the batch: a replica's part of it by default.

    Differs from MMRazor, which makes the embeddings unit vectors first; follows the authors' code, which
    does not in these settings.

    Args:
        distance_weight: of the distances, 0 or more.
        angle_weight: of the angles, 0 or more.
        student_tap: the vectors, by default the embedding; the losses of several taps are summed.
        teacher_tap: what they follow, as many.
        across_replicas: whether to compare the examples of the global batch; memory grows with its size cubed.
        weight: 1 in the published CIFAR-100 tables, beside a hard loss of 1.
        name: the term's name in the log.
    """

    family = "relations"

    def __init__(
        self,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        student_tap: str | Sequence[str] = "embedding",
        teacher_tap: str | Sequence[str] = "embedding",
        across_replicas: bool = False,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.distance_weight = number("RKD", "distance_weight", distance_weight, least=0)
        self.angle_weight = number("RKD", "angle_weight", angle_weight, least=0)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        weights = {"distance_weight": self.distance_weight, "angle_weight": self.angle_weight}
        return sum(rkd_loss(ours, theirs, **weights) for ours, theirs in zip(*self.tensors(student, teacher)))
