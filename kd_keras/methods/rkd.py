"""RKD: Park, Kim, Lu, Cho 2019, *Relational Knowledge Distillation*, 1904.05068, section 3.2."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import distances, flatten

CORNERS = 4  # whose angles are held at one time, B^2 numbers each; with fewer a small batch takes longer


def rkd_loss(
    student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """The weighed sum of the losses of distances and of angles.

    Args:
        student: embeddings `(B, D)`; what has more axes is flattened.
        teacher: embeddings `(B, D')`.
        distance_weight: of `rkd_distance_loss`, a number of 0 or more; with 0 it is not computed.
        angle_weight: of `rkd_angle_loss`, likewise.

    Returns:
        `()` float32, 0 or more; zero for a batch of one. Memory: some B^2; time: B^3, for the angles.

    >>> import numpy as np
    >>> line, corner = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # (B, D)
    >>> round(float(rkd_loss(line, corner)), 4)
    2.4456
    """
    terms = ((distance_weight, rkd_distance_loss), (angle_weight, rkd_angle_loss))
    return sum((weight * loss(student, teacher) for weight, loss in terms if weight), ops.zeros(()))


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

    The corners are gone through a few at a time, and the gradient is summed up on the way, in closed form, as nothing
    of a corner is kept. It is a first gradient, and the student's alone.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D')`; they get no gradient.

    Returns:
        `()` float32, from 0 to 1.5. Memory: some B^2, whatever D is; time: B^3.

    >>> import numpy as np
    >>> line, corner = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # (B, D)
    >>> round(float(rkd_angle_loss(line, corner)), 4)  # cosines 1, -1, 1 against 0.7, 0, 0.7, each twice, over 27
    0.0434
    """
    ours, theirs = _relations(student), _relations(teacher)
    total, *slopes = map(ops.stop_gradient, _swept(*[tuple(map(ops.stop_gradient, side)) for side in (ours, theirs)]))
    for matrix, slope in zip(ours, slopes):  # adds nothing but the gradient
        total = total + ops.sum(slope * (matrix - ops.stop_gradient(matrix)))
    return total / ops.cast(ops.shape(ours[0])[0], "float32") ** 3


def _over_their_mean(x: Tensor) -> Tensor:
    between = distances(flatten(x))
    positive = ops.cast(between > 0, "float32")
    mean = ops.sum(between) / ops.maximum(ops.sum(positive), 1.0)
    return between / ops.where(mean > 0, mean, 1.0)


def _relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """G `(B, B)` of the centred vectors, and the inverse distances `(B, B)`, 0 where there is no direction."""
    x = flatten(x)
    x = x - ops.mean(x, axis=0, keepdims=True)
    gram = ops.matmul(x, ops.transpose(x))
    own = ops.diagonal(gram)
    lengths = own[:, None] + own[None, :]
    square = lengths - 2 * gram
    apart = square > 1e-6 * lengths + 1e-24
    inverse = ops.where(apart, ops.rsqrt(ops.where(apart, square, 1.0)), 0.0) * (1 - ops.eye(ops.shape(x)[0]))
    return gram, inverse


def _swept(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of smooth L1 over all triples, and its slope to the student's G and to its inverse distances.

    With r the inverse distances the cosine c_ijk = N_ijk r_ij r_ik, N_ijk = G_jk - G_ij - G_ik + G_ii, and w the
    difference of both sides' c, cut to -1..1, smooth L1 is w (difference - w / 2) and its slope to c is w. So that to
    N is w r r, of which every N gives four parts to G, and that to r_ij is 2 sum_k w N r_ik, as j and k may change
    places.
    """
    count = ops.shape(student[0])[0]
    turns = (count + CORNERS - 1) // CORNERS

    def turn(number: Tensor, sums: tuple) -> tuple:
        total, to_pairs, to_rows, to_inverse = sums
        corners = number * CORNERS + ops.arange(CORNERS)
        dots, near, both = _seen_from(corners, *student)
        others, _, both_others = _seen_from(corners, *teacher)
        difference = dots * both - others * both_others
        w = ops.clip(difference, -1.0, 1.0)
        slope = w * both
        at = corners[:, None]
        return (
            total + ops.sum(w * (difference - w / 2)),
            to_pairs + ops.sum(slope, axis=0),
            ops.scatter_update(to_rows, at, ops.sum(slope, axis=2)),
            ops.scatter_update(to_inverse, at, 2 * ops.einsum("ijk,ik->ij", w * dots, near)),
        )

    rows = ops.zeros((turns * CORNERS, count))  # those past the last stay 0
    sums = ops.fori_loop(0, turns, turn, (ops.zeros(()), ops.zeros_like(student[0]), rows, rows))
    total, to_pairs, to_rows, to_inverse = sums[0], sums[1], sums[2][:count], sums[3][:count]
    return total, to_pairs - 2 * to_rows + ops.eye(count) * ops.sum(to_rows, axis=1), to_inverse


def _seen_from(corners: Tensor, gram: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """N `(C, B, B)` of some corners, r `(C, B)`, and r r `(C, B, B)`; corners past the last have r of 0."""
    count = ops.shape(gram)[0]
    known = ops.minimum(corners, count - 1)
    rows, own = ops.take(gram, known, axis=0), ops.take(ops.diagonal(gram), known)
    near = ops.take(inverse, known, axis=0) * ops.cast(corners < count, "float32")[:, None]
    dots = gram[None, :, :] - rows[:, :, None] - rows[:, None, :] + own[:, None, None]
    return dots, near, near[:, :, None] * near[:, None, :]


def _smooth_l1(difference: Tensor) -> Tensor:
    size = ops.abs(difference)
    return ops.mean(ops.where(size < 1, ops.square(size) / 2, size - 0.5))


@keras.saving.register_keras_serializable("kd_keras")
class RKD(TapPairMethod):
    """Distances and angles between the student's embeddings follow those between the teacher's.

    It has no adapters. Relations are those within the batch: a replica's part of it by default.

    Differs from MMRazor, which makes the embeddings unit vectors first; follows the authors' code, which
    does not in these settings.

    Args:
        distance_weight: of the distances, 0 or more; with 0 they are not computed.
        angle_weight: of the angles, 0 or more; likewise.
        student_tap: the vectors, by default the embedding; the losses of several taps are summed.
        teacher_tap: what they follow, as many.
        across_replicas: whether to compare the examples of the global batch; time grows with its size cubed.
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
        self.distance_weight = check_number("RKD", "distance_weight", distance_weight, least=0)
        self.angle_weight = check_number("RKD", "angle_weight", angle_weight, least=0)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        weights = {"distance_weight": self.distance_weight, "angle_weight": self.angle_weight}
        return sum(rkd_loss(ours, theirs, **weights) for ours, theirs in zip(*self.tensors(student, teacher)))
