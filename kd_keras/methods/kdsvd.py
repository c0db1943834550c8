"""KDSVD: Lee, Kim, Song 2018, *Self-supervised Knowledge Distillation Using Singular Value Decomposition*, 1807.06819,
its loss of correlations by a radial basis function."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_whole_number, explain_mismatch
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import l2_normalize

RESOLVED = 1e-5  # of the largest eigenvalue: what float32 still tells from nothing, and one value from the next


def kdsvd_loss(student: list[Tensor], teacher: list[Tensor], *, k: int = 1) -> Tensor:
    """How the principal directions of the channels change from map to map: the student's change follows the teacher's.

    Each map, as a matrix `(H W, C)`, has k first right singular vectors v. The student's are, for each of the
    teacher's, that of its k + 3 first with the largest |cosine|, with the sign that makes it positive. All are
    multiplied by the teacher's singular values, themselves a unit vector. From one map to the next,
    exp(-(v - v')^2 / 8) of every channel with every channel; the squared differences of the student's from the
    teacher's are summed.

    The vectors are eigenvectors of the smaller of the matrices A^T A and A A^T. Their gradient is that of perturbation
    theory, sum_i v_i (v_i . dG v_j) / (lambda_j - lambda_i), without those i whose eigenvalue is nearer than 1e-5 of
    the largest one: where the exact gradient grows beyond bounds, it leaves the rotation within such a pair alone.

    Args:
        student: two or more maps `(B, H, W, C)`, in the network's order.
        teacher: as many maps of the same channels; sizes may be others.
        k: how many vectors, 1 or more; as many as each map has, where one has fewer.

    Returns:
        `(B,)` float32, 0 or more. Memory: B C C' k for each consecutive pair, and B min(H W, C)^2.

    Follows RepDistiller's decomposition of `(H W, C)`, the paper's; mdistiller decomposes `(C H, W)`, another method.
    Differs from both in the sign of the teacher's vectors, which they take as the decomposition happens to give it,
    although the loss depends on it: here the entry farthest from zero is positive. It also differs where they have no
    number: non-finite values of a map count as zero, and there is no vector where the eigenvalue is below 1e-5 of the
    largest, among which any choice would be as good, nor of a map of zeros.

    >>> import numpy as np
    >>> maps = [np.random.default_rng(i).normal(size=(2, 4, 4, 3)) for i in range(2)]
    >>> kdsvd_loss(maps, maps).numpy().tolist()
    [0.0, 0.0]
    """
    if len(student) != len(teacher):
        raise ValueError(explain_mismatch("as many maps of both", f"student {len(student)}, teacher {len(teacher)}"))
    k = min(k, *(min(t.shape[1] * t.shape[2], t.shape[3]) for t in teacher))
    pairs = [_scaled_vectors(s, t, k) for s, t in zip(student, teacher)]
    loss = 0.0
    for (ours, theirs), (our_next, their_next) in zip(pairs, pairs[1:]):
        difference = _relation(ours, our_next) - _relation(theirs, their_next)
        loss = loss + ops.sum(ops.square(difference), axis=(1, 2, 3))
    return loss


def _relation(a: Tensor, b: Tensor) -> Tensor:
    """`(B, C, C', k)` of vectors `(B, C, k)` and `(B, C', k)`."""
    return ops.exp(-ops.square(a[:, :, None, :] - b[:, None, :, :]) / 8)


def _scaled_vectors(student: Tensor, teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The vectors `(B, C, k)` of both, the student's aligned with the teacher's, times the teacher's values."""
    vectors, values = _right_vectors(teacher, k)
    vectors = vectors * _sign(vectors)
    candidates, _ = _right_vectors(student, k + 3)
    cosine = ops.stop_gradient(ops.matmul(ops.transpose(candidates, (0, 2, 1)), vectors))
    suggest = ops.one_hot(ops.argmax(ops.abs(cosine), axis=1), cosine.shape[1], axis=1)
    values = l2_normalize(values)[:, None, :]
    return ops.matmul(candidates, suggest * ops.sign(cosine)) * values, vectors * values


def _sign(vectors: Tensor) -> Tensor:
    """`(B, 1, n)`: the sign of the entry farthest from zero of each of the vectors `(B, C, n)`."""
    farthest = ops.one_hot(ops.argmax(ops.abs(vectors), axis=1), vectors.shape[1], axis=1)
    return ops.sign(ops.sum(vectors * farthest, axis=1, keepdims=True))


def _right_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first right singular vectors `(B, C, n)` of maps as `(H W, C)`, and their values `(B, n)` up to a factor."""
    _, height, width, channels = maps.shape
    matrix = _without_scale(ops.reshape(ops.cast(maps, "float32"), (-1, height * width, channels)))
    narrow = height * width >= channels
    matrix = matrix if narrow else ops.transpose(matrix, (0, 2, 1))
    vectors = _eigenvectors(ops.matmul(ops.transpose(matrix, (0, 2, 1)), matrix), count)
    images = ops.matmul(matrix, vectors)  # as long as the singular values
    values = ops.sqrt(ops.sum(ops.square(ops.stop_gradient(images)), axis=1))
    return (vectors if narrow else l2_normalize(images, axis=1)), values


def _without_scale(matrix: Tensor) -> Tensor:
    """A matrix over its largest entry, since vectors do not change with it; what is not finite becomes zero."""
    matrix = ops.where(ops.isfinite(matrix), matrix, 0.0)
    largest = ops.stop_gradient(ops.max(ops.abs(matrix), axis=(1, 2), keepdims=True))
    alive = largest > 1e-12
    return ops.where(alive, matrix / ops.where(alive, largest, 1.0), 0.0)


def _eigenvectors(gram: Tensor, count: int) -> Tensor:
    """The first eigenvectors `(B, D, n)` of symmetric matrices `(B, D, D)`, zeros where the eigenvalue is none."""
    fixed = ops.stop_gradient(gram)
    values, vectors = ops.eigh(fixed)
    values, vectors = ops.flip(values, axis=-1), ops.flip(vectors, axis=-1)  # the largest first
    least = RESOLVED * values[:, :1]
    first = vectors[..., :count] * ops.cast(values[:, :count] > least, "float32")[:, None, :]
    gap = values[:, None, :count] - values[:, :, None]
    apart = ops.abs(gap) > least[:, None]
    turned = ops.matmul(ops.transpose(vectors, (0, 2, 1)), ops.matmul(gram - fixed, first))  # zero; has the gradient
    return first + ops.matmul(vectors, ops.where(apart, turned / ops.where(apart, gap, 1.0), 0.0))


@keras.saving.register_keras_serializable("kd_keras")
class KDSVD(TapPairMethod):
    """The change of the principal directions of the student's maps from stage to stage follows the teacher's.

    Both need the same channels. XLA decomposes matrices many times more slowly, so that a Distiller with this method
    does without it. Decompositions take a good part of a step where maps have hundreds of channels and positions.

    Args:
        student_tap: two or more maps in the network's order, by default all stages.
        teacher_tap: the maps that they follow, as many.
        k: how many singular vectors, 1 or more.
        weight: 1, beside a hard loss of 1; RepDistiller gives no value with its code, so tune it.
        name: the term's name in the log.

    >>> KDSVD().k
    1
    """

    family = "relations"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages",
        teacher_tap: str | Sequence[str] = "stages",
        k: int = 1,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.k = check_whole_number("KDSVD", "k", k)
        self.supports_jit = False  # Keras then runs the step without XLA; the loss itself does compile

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        for ours, theirs in pairs:
            came = f"student {ours.layer!r} {ours.shape}, teacher {theirs.layer!r} {theirs.shape}"
            if len(pairs) < 2:
                raise ValueError(explain_mismatch(f"two or more maps of each for {self.name!r}", came, 'tap "stages"'))
            if ours.shape[-1] != theirs.shape[-1]:
                remedy = "a student as wide as the teacher, or a method with adapters such as FitNet"
                raise ValueError(explain_mismatch(f"maps of the same channels for {self.name!r}", came, remedy))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return kdsvd_loss(*self.tensors(student, teacher), k=self.k)
