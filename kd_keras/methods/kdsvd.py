"""KDSVD: Lee, Kim, Song 2018, *Self-supervised Knowledge Distillation Using Singular Value Decomposition*, 1807.06819,
its loss of correlations by a radial basis function."""

from __future__ import annotations

import itertools

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_whole_number, explain_mismatch
from kd_keras.methods.adapters import check_map_sequences
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import l2_normalize

RESOLUTION = 1e-5  # relative to the largest eigenvalue: differences that float32 still resolves


def kdsvd_loss(student: list[Tensor], teacher: list[Tensor], *, k: int = 1) -> Tensor:
    """The student's change of principal channel directions from map to map follows the teacher's.

    Each map, as a matrix `(H W, C)`, has k first right singular vectors v. For each vector of the teacher, the
    student's vector is the one with the largest |cosine| among its k + 3 first, with the sign that makes the cosine
    positive. All are multiplied by the teacher's singular values, normalized to a unit vector. From each map to the
    next, the relation of every channel with every channel is exp(-(v - v')^2 / 8); the loss sums the squared
    differences between the student's and the teacher's relations.

    The vectors are eigenvectors of the smaller of the matrices A^T A and A A^T. Their gradient is that of perturbation
    theory, sum_i v_i (v_i . dG v_j) / (lambda_j - lambda_i), without those i whose eigenvalue is within 1e-5 of the
    largest one of lambda_j: there the exact gradient is unbounded, and the rotation within such a pair is ignored.

    Follows RepDistiller's decomposition of `(H W, C)`, which is the paper's; mdistiller decomposes `(C H, W)`, which is
    another method. Differs from both in the sign of the teacher's vectors, which they take from the decomposition
    although the loss depends on it: here the entry farthest from zero is positive. Differs also for inputs on which
    they are undefined: non-finite values of a map count as zero, and there is no vector for a map of zeros or for an
    eigenvalue below 1e-5 of the largest, because such vectors are arbitrary.

    Args:
        student: two or more maps `(B, H, W, C)`, in the order of the network.
        teacher: as many maps with the same numbers of channels; sizes may differ.
        k: the number of vectors, at least 1; at most as many are used as every map has.

    Returns:
        `(B,)` float32, at least 0. Memory: B C C' k for each consecutive pair, and B min(H W, C)^2.

    Raises:
        ValueError: if the numbers of maps differ.

    >>> import numpy as np
    >>> maps = [np.random.default_rng(i).normal(size=(2, 4, 4, 3)) for i in range(2)]
    >>> kdsvd_loss(maps, maps).numpy().tolist()
    [0.0, 0.0]
    """
    if len(student) != len(teacher):
        received = f"{len(student)} of the student and {len(teacher)} of the teacher"
        raise ValueError(explain_mismatch("as many maps of the student as of the teacher", received))
    k = min(k, *(min(maps.shape[1] * maps.shape[2], maps.shape[3]) for maps in teacher))
    pairs = [_scaled_vectors(*pair, k) for pair in zip(student, teacher, strict=True)]
    loss = 0.0
    for (vectors, target_vectors), (next_vectors, next_target_vectors) in itertools.pairwise(pairs):
        difference = _relation(vectors, next_vectors) - _relation(target_vectors, next_target_vectors)
        loss = loss + ops.sum(ops.square(difference), axis=(1, 2, 3))
    return loss


def _relation(a: Tensor, b: Tensor) -> Tensor:
    """`(B, C, C', k)` of vectors `(B, C, k)` and `(B, C', k)`."""
    return ops.exp(-ops.square(a[:, :, None, :] - b[:, None, :, :]) / 8)


def _scaled_vectors(student: Tensor, teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The vectors `(B, C, k)` of both sides, the student's aligned with the teacher's, times the teacher's values."""
    vectors, values = _right_singular_vectors(teacher, k)
    vectors = vectors * _sign(vectors)
    candidates, _ = _right_singular_vectors(student, k + 3)
    cosine = ops.stop_gradient(ops.matmul(ops.transpose(candidates, (0, 2, 1)), vectors))
    choice = ops.one_hot(ops.argmax(ops.abs(cosine), axis=1), cosine.shape[1], axis=1)
    values = l2_normalize(values)[:, None, :]
    return ops.matmul(candidates, choice * ops.sign(cosine)) * values, vectors * values


def _sign(vectors: Tensor) -> Tensor:
    """`(B, 1, n)`: the sign of the entry farthest from zero of each of the vectors `(B, C, n)`."""
    farthest = ops.one_hot(ops.argmax(ops.abs(vectors), axis=1), vectors.shape[1], axis=1)
    return ops.sign(ops.sum(vectors * farthest, axis=1, keepdims=True))


def _right_singular_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first right singular vectors `(B, C, n)` of maps as `(H W, C)`, and their values `(B, n)` up to a factor."""
    _, height, width, channels = maps.shape
    matrix = _without_scale(ops.reshape(ops.cast(maps, "float32"), (-1, height * width, channels)))
    is_narrow = height * width >= channels
    matrix = matrix if is_narrow else ops.transpose(matrix, (0, 2, 1))
    vectors = _eigenvectors(ops.matmul(ops.transpose(matrix, (0, 2, 1)), matrix), count)
    images = ops.matmul(matrix, vectors)  # their lengths are the singular values
    values = ops.sqrt(ops.sum(ops.square(ops.stop_gradient(images)), axis=1))
    return (vectors if is_narrow else l2_normalize(images, axis=1)), values


def _without_scale(matrix: Tensor) -> Tensor:
    """A matrix divided by its largest entry, which does not change its vectors; non-finite entries become zero."""
    matrix = ops.where(ops.isfinite(matrix), matrix, 0.0)
    largest = ops.stop_gradient(ops.max(ops.abs(matrix), axis=(1, 2), keepdims=True))
    is_nonzero = largest > 1e-12
    return ops.where(is_nonzero, matrix / ops.where(is_nonzero, largest, 1.0), 0.0)


def _eigenvectors(gram: Tensor, count: int) -> Tensor:
    """The first eigenvectors `(B, D, n)` of symmetric matrices `(B, D, D)`; zeros if the eigenvalue is zero."""
    constant = ops.stop_gradient(gram)
    values, vectors = ops.eigh(constant)
    values, vectors = ops.flip(values, axis=-1), ops.flip(vectors, axis=-1)  # the largest first
    least = RESOLUTION * values[:, :1]
    first = vectors[..., :count] * ops.cast(values[:, :count] > least, "float32")[:, None, :]
    gap = values[:, None, :count] - values[:, :, None]
    is_resolved = ops.abs(gap) > least[:, None]
    # The rotation is zero in value and carries the gradient of the vectors.
    rotation = ops.matmul(ops.transpose(vectors, (0, 2, 1)), ops.matmul(gram - constant, first))
    return first + ops.matmul(vectors, ops.where(is_resolved, rotation / ops.where(is_resolved, gap, 1.0), 0.0))


@keras.saving.register_keras_serializable("kd_keras")
class KDSVD(TapPairMethod):
    """The change of the principal directions of the student's maps from stage to stage follows the teacher's.

    Both networks need the same numbers of channels. XLA decomposes matrices many times more slowly, so a Distiller with
    this method does not use it. With hundreds of channels and positions, the decompositions take a large part of the
    time of a step.

    Args:
        k: the number of singular vectors, at least 1.
        **options: `student_tap` and `teacher_tap`, by default all stages, two or more maps in the order of the network;
            `weight`, by default 1, with a hard loss of 1; `name`. RepDistiller gives no weight with its code: tune it.

    >>> KDSVD().k
    1
    """

    family = "relations"
    paper = "Lee, Kim, Song 2018, 1807.06819"
    taps = Taps(("stages",), ("stages",))

    def __init__(self, *, k: int = 1, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.k = check_whole_number("KDSVD", "k", k)
        self.supports_jit = False  # Keras then runs the step without XLA, under which the loss works but is slow

    def bind(self, student: Specs, teacher: Specs) -> None:
        check_map_sequences(self.name, self.pairs(student, teacher, rank=4))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return kdsvd_loss(*self.tensors(student, teacher), k=self.k)
