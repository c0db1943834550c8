"""RKD: Park, Kim, Lu, Cho 2019, *Relational Knowledge Distillation*, 1904.05068, section 3.2."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import flatten, pairwise_distances

CORNERS = 4  # corners whose angles are in memory at the same time, B^2 numbers each; fewer are slower for small batches


def rkd_loss(student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """The weighted sum of the distance loss and the angle loss.

    Args:
        student: embeddings `(B, D)`; further axes are flattened.
        teacher: embeddings `(B, D')`.
        distance_weight: the weight of `rkd_distance_loss`, at least 0; with 0 it is not computed.
        angle_weight: the weight of `rkd_angle_loss`, likewise.

    Returns:
        `()` float32, at least 0; zero for a batch of one. Memory: a few B^2; time: B^3, for the angles.

    >>> import numpy as np
    >>> line, corner = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # (B, D)
    >>> round(float(rkd_loss(line, corner)), 4)
    2.4456
    """
    terms = ((distance_weight, rkd_distance_loss), (angle_weight, rkd_angle_loss))
    return sum((weight * loss(student, teacher) for weight, loss in terms if weight), ops.zeros(()))


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the Euclidean distances of both sides, each divided by its mean; the mean over all B^2 pairs.

    The mean distance is that of the positive entries, which are those off the diagonal, because two equal vectors
    count as 1e-6 apart. The student's mean has a gradient.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D')`.

    Returns:
        `()` float32, at least 0. Memory: B^2.

    >>> import numpy as np
    >>> even, uneven = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [3.0]])  # (B, D)
    >>> round(float(rkd_distance_loss(even, uneven)), 4)  # 3/4, 3/4, 6/4 against 1/2, 1, 3/2, each twice, over 9
    0.0139
    """
    return _smooth_l1(_relative_distances(student) - _relative_distances(teacher))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the cosines of both sides at all corners x_j, x_i, x_k; the mean over all B^3 triples.

    The cosines come from the Gram matrix G of the centered vectors: (x_j - x_i) . (x_k - x_i) = G_jk - G_ij - G_ik +
    G_ii. A cosine is 0 if the corner coincides with j or k. It is also 0, without a gradient, if they are nearer than a
    thousandth of their distance from the mean of the batch: float32 does not resolve that direction, and the authors'
    code divides by nearly 0. At a thirtieth of that distance the loss is accurate to 1e-5 and its gradient to 1e-4, at
    a hundredth to 1e-4 and 1e-3.

    The loop visits a few corners at a time and accumulates the gradient in closed form, so that no intermediate result
    of a corner is kept. Only first derivatives with respect to the student are available.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D')`; they get no gradient.

    Returns:
        `()` float32, from 0 to 1.5. Memory: a few B^2 for every D; time: B^3.

    >>> import numpy as np
    >>> line, corner = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # (B, D)
    >>> round(float(rkd_angle_loss(line, corner)), 4)  # cosines 1, -1, 1 against 0.7, 0, 0.7, each twice, over 27
    0.0434
    """
    student_relations, teacher_relations = _relations(student), _relations(teacher)
    constants = [tuple(map(ops.stop_gradient, side)) for side in (student_relations, teacher_relations)]
    total, *slopes = map(ops.stop_gradient, _sum_over_corners(*constants))
    for matrix, slope in zip(student_relations, slopes, strict=True):  # adds zero in value, which carries the gradient
        total = total + ops.sum(slope * (matrix - ops.stop_gradient(matrix)))
    return total / ops.cast(ops.shape(student_relations[0])[0], "float32") ** 3


def _relative_distances(x: Tensor) -> Tensor:
    """The distances `(B, B)` divided by their mean."""
    distances = pairwise_distances(flatten(x))
    is_positive = ops.cast(distances > 0, "float32")
    mean = ops.sum(distances) / ops.maximum(ops.sum(is_positive), 1.0)
    return distances / ops.where(mean > 0, mean, 1.0)


def _relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """G `(B, B)` of the centered vectors, and the inverse distances `(B, B)`, 0 for pairs without a direction."""
    x = flatten(x)
    x = x - ops.mean(x, axis=0, keepdims=True)
    gram = ops.matmul(x, ops.transpose(x))
    norms = ops.diagonal(gram)
    lengths = norms[:, None] + norms[None, :]
    square = lengths - 2 * gram
    is_resolved = square > 1e-6 * lengths + 1e-24
    inverse = ops.where(is_resolved, ops.rsqrt(ops.where(is_resolved, square, 1.0)), 0.0)
    return gram, inverse * (1 - ops.eye(ops.shape(x)[0]))


def _sum_over_corners(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of smooth L1 over all triples, and its derivatives by the student's G and by its inverse distances.

    Let r be the inverse distances, c_ijk = N_ijk r_ij r_ik the cosine with N_ijk = G_jk - G_ij - G_ik + G_ii, and w the
    difference of both sides' c, clipped to -1..1. Smooth L1 is w (difference - w / 2), and its derivative by c is w.
    Hence the derivative by N is w r r, of which every N passes four parts on to G; the derivative by r_ij is
    2 sum_k w N r_ik, because j and k may be exchanged.
    """
    count = ops.shape(student[0])[0]
    chunks = (count + CORNERS - 1) // CORNERS

    def add_chunk(chunk: Tensor, sums: tuple) -> tuple:
        total, to_pairs, to_rows, to_inverse = sums
        corners = chunk * CORNERS + ops.arange(CORNERS)
        dots, near, products = _at_corners(corners, *student)
        teacher_dots, _, teacher_products = _at_corners(corners, *teacher)
        difference = dots * products - teacher_dots * teacher_products
        w = ops.clip(difference, -1.0, 1.0)
        slope = w * products
        rows = corners[:, None]
        return (
            total + ops.sum(w * (difference - w / 2)),
            to_pairs + ops.sum(slope, axis=0),
            ops.scatter_update(to_rows, rows, ops.sum(slope, axis=2)),
            ops.scatter_update(to_inverse, rows, 2 * ops.einsum("ijk,ik->ij", w * dots, near)),
        )

    zeros = ops.zeros((chunks * CORNERS, count))  # the rows after the last corner stay 0
    sums = ops.fori_loop(0, chunks, add_chunk, (ops.zeros(()), ops.zeros_like(student[0]), zeros, zeros))
    total, to_pairs, to_rows, to_inverse = sums[0], sums[1], sums[2][:count], sums[3][:count]
    return total, to_pairs - 2 * to_rows + ops.eye(count) * ops.sum(to_rows, axis=1), to_inverse


def _at_corners(corners: Tensor, gram: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """N `(C, B, B)` of some corners, r `(C, B)`, and r r `(C, B, B)`; corners after the last one have r = 0."""
    count = ops.shape(gram)[0]
    existing = ops.minimum(corners, count - 1)
    rows, norms = ops.take(gram, existing, axis=0), ops.take(ops.diagonal(gram), existing)
    near = ops.take(inverse, existing, axis=0) * ops.cast(corners < count, "float32")[:, None]
    dots = gram[None, :, :] - rows[:, :, None] - rows[:, None, :] + norms[:, None, None]
    return dots, near, near[:, :, None] * near[:, None, :]


def _smooth_l1(difference: Tensor) -> Tensor:
    size = ops.abs(difference)
    return ops.mean(ops.where(size < 1, ops.square(size) / 2, size - 0.5))


@keras.saving.register_keras_serializable("kd_keras")
class RKD(TapPairMethod):
    """Distances and angles between the student's embeddings follow those between the teacher's.

    There are no adapters. The relations are those within a batch, by default the slice on each replica.

    Follows the authors' code, which in these settings does not normalize the embeddings; MMRazor does. Squared
    distances, an option of some implementations, are not offered.

    Args:
        distance_weight: the weight of the distances, at least 0; with 0 they are not computed.
        angle_weight: the weight of the angles, likewise.
        across_replicas: whether to compare the examples of the global batch; time grows with its size cubed.
        **options: `student_tap` and `teacher_tap`, by default the embedding, summed over several taps; `weight`, by
            default 1 as in the published CIFAR-100 tables, with a hard loss of 1; `name`.

    >>> RKD(angle_weight=0.0).taps.student
    ('embedding',)
    """

    least_examples = 2
    family = "relations"
    paper = "Park, Kim, Lu, Cho 2019, 1904.05068"
    taps = Taps(("embedding",), ("embedding",))

    def __init__(
        self,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        across_replicas: bool = False,
        **options: Unpack[TapPairOptions],
    ):
        super().__init__(**options)
        self.distance_weight = check_number("RKD", "distance_weight", distance_weight, least=0)
        self.angle_weight = check_number("RKD", "angle_weight", angle_weight, least=0)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        weights = {"distance_weight": self.distance_weight, "angle_weight": self.angle_weight}
        pairs = zip(*self.tensors(student, teacher), strict=True)
        return sum(rkd_loss(*pair, **weights) for pair in pairs)
