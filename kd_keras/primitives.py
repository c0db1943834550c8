"""The maths that several methods share, in `keras.ops` and float32. Every function takes the student first."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from keras import ops

Tensor: TypeAlias = Any  # the same as kd_keras.contracts.Tensor; neither module imports the other


def softened_kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """KL(p_t || p_s) of the probabilities softened by a temperature, for each example.

    p = softmax(z / T) and KL(p_t || p_s) = sum_k p_t,k (log p_t,k - log p_s,k), computed from log-softmax, so that it
    is finite for logits of any finite size. It is not multiplied by T^2.

    At a high temperature the two distributions are nearly equal and the terms of the sum nearly cancel, which costs
    float32 four of its seven digits. Adding sum_k (p_s,k - p_t,k), which is zero, turns every term into
    p_t (d + exp(-d) - 1) with d = log p_t - log p_s: no term is negative, and a rounding error in d has an effect of d
    times its size only.

    Args:
        student: `(B, K)` or `(..., K)` logits z_s of any float dtype; the computation is in float32.
        teacher: logits z_t of the same shape; gradients are not stopped here.
        temperature: T > 0.

    Returns:
        `(B,)` or `(...)` float32, in nats, at least 0.

    >>> import numpy as np
    >>> round(float(softened_kl(np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]]))[0]), 4)
    0.1308
    """
    log_student = ops.log_softmax(ops.cast(student, "float32") / temperature, axis=-1)
    log_teacher = ops.log_softmax(ops.cast(teacher, "float32") / temperature, axis=-1)
    p_student, p_teacher, d = ops.exp(log_student), ops.exp(log_teacher), log_teacher - log_student
    is_near = d > -30.0  # else p_s is the whole term, and exp(-d) may overflow
    term = p_teacher * (d + ops.expm1(-ops.where(is_near, d, 0.0)))
    return ops.sum(ops.where(is_near, term, p_student - p_teacher + p_teacher * d), axis=-1)


def softened_binary_kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """The sum over K units of KL(p_t || p_s), where p = (1 - sigmoid(z / T), sigmoid(z / T)) for a unit's logit z.

    Args:
        student: `(..., K)` logits z_s of any float dtype; the computation is in float32.
        teacher: logits z_t of the same shape; gradients are not stopped here.
        temperature: T > 0.

    Returns:
        `(...)` float32, in nats, at least 0.

    >>> round(float(softened_binary_kl(np.array([[0.0]]), np.array([[np.log(3.0)]]))[0]), 4)
    0.1308
    """
    student, teacher = (ops.cast(logits, "float32")[..., None] for logits in (student, teacher))
    return ops.sum(softened_kl(as_two_classes(student), as_two_classes(teacher), temperature), axis=-1)


def as_two_classes(logits: Tensor) -> Tensor:
    """The logits `(..., 2)` of two classes with a softmax that equal one unit's logit z `(..., 1)`: (0, z).

    >>> as_two_classes(np.array([[3.0]])).numpy().tolist()
    [[0.0, 3.0]]
    """
    return ops.concatenate([ops.zeros_like(logits), logits], axis=-1)


def as_list(maps: Tensor | list[Tensor]) -> list[Tensor]:
    """A list of maps; a single map becomes a list of one.

    >>> as_list("map"), as_list(("first", "second"))
    (['map'], ['first', 'second'])
    """
    return list(maps) if isinstance(maps, (list, tuple)) else [maps]


def flatten(x: Tensor) -> Tensor:
    """Flattens `(B, ...)` to `(B, D)`, float32; all sizes but B must be known.

    >>> flatten(np.zeros((2, 3, 4))).shape
    TensorShape([2, 12])
    """
    return ops.reshape(ops.cast(x, "float32"), (-1, math.prod(x.shape[1:])))


def mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two tensors `(B, ...)` over all elements of an example: `(B,)` float32.

    >>> float(mean_square(np.zeros((1, 2, 2)), np.full((1, 2, 2), 3.0))[0])
    9.0
    """
    difference = ops.cast(student, "float32") - ops.cast(teacher, "float32")
    return ops.mean(ops.square(difference), axis=tuple(range(1, len(difference.shape))))


def smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over all elements of an example of d^2 / 2 below |d| = 1 and of |d| - 1/2 above, of the difference d of
    two tensors `(B, ...)`: `(B,)` float32.

    >>> float(smooth_l1(np.zeros((1, 2)), np.array([[0.5, 3.0]]))[0])  # (0.125 + 2.5) / 2
    1.3125
    """
    size = ops.abs(ops.cast(student, "float32") - ops.cast(teacher, "float32"))
    terms = ops.where(size < 1.0, 0.5 * ops.square(size), size - 0.5)
    return ops.mean(terms, axis=tuple(range(1, len(terms.shape))))


def l2_normalize(x: Tensor, axis: int = -1, dtype: str = "float32") -> Tensor:
    """`x / ||x||_2` along an axis, of the same shape.

    A vector of zeros, such as a dead channel, has no direction: it stays zero and gets no gradient.

    >>> l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]], "float32")).numpy().round(4).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    x = ops.cast(x, dtype)
    square = ops.sum(ops.square(x), axis=axis, keepdims=True)
    # A norm of at most 1e-12, the smallest that reference implementations divide by. NaN stays NaN.
    is_zero = square <= 1e-24
    return ops.where(is_zero, 0.0, x * ops.rsqrt(ops.where(is_zero, 1.0, square)))


def root(square: Tensor, least: float | Tensor = 0.0) -> Tensor:
    """The square root, and 0 without a gradient where `square` is at most `least`; NaN stays NaN.

    >>> root(np.array([9.0, 0.0])).numpy().tolist()
    [3.0, 0.0]
    """
    is_zero = square <= least
    return ops.where(is_zero, 0.0, ops.sqrt(ops.where(is_zero, 1.0, square)))


def rounding_of(mean: Tensor) -> Tensor:
    """The variance that rounding leaves of equal values: at most 1e-12 of the square of their mean, or 1e-24."""
    return 1e-12 * ops.square(mean) + 1e-24


def keep_finite(new: Tensor, old: Tensor) -> Tensor:
    """The rows `(..., C)` of `new`, and those of `old` where a row of `new` has a value that is not finite.

    What a method remembers from batch to batch goes through it, because a skipped step does not undo it.

    >>> keep_finite(np.array([[1.0, 2.0], [3.0, np.nan]]), np.zeros((2, 2))).numpy().tolist()
    [[1.0, 2.0], [0.0, 0.0]]
    """
    return ops.where(ops.all(ops.isfinite(new), axis=-1, keepdims=True), new, old)


def attention(maps: Tensor, power: float = 2.0) -> Tensor:
    """The attention map of `(B, H, W, C)`: the mean of |x|^p over the channels, as a unit vector `(B, H * W)`, float32.

    Zagoruyko and Komodakis 2017, 1612.03928, equation 2.

    Args:
        maps: `(B, H, W, C)` of any float dtype.
        power: p > 0.

    >>> attention(np.array([3.0, 0.0, 0.0, 4.0]).reshape(1, 2, 2, 1) ** 0.5).numpy().round(4).tolist()
    [[0.6000000238418579, 0.0, 0.0, 0.800000011920929]]
    """
    maps = ops.cast(maps, "float32")
    powers = ops.square(maps) if power == 2 else ops.abs(maps) ** power
    return l2_normalize(flatten(ops.mean(powers, axis=-1)))


def average_pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of `(B, H, W, C)` to `(B, h, w, C)`, float32.

    Row i is the mean of the rows from floor(i H / h) to ceil((i + 1) H / h); columns likewise.

    >>> average_pool_to(np.arange(3.0).reshape(1, 3, 1, 1), (2, 1)).numpy().ravel().tolist()
    [0.5, 1.5]
    """
    maps = ops.cast(maps, "float32")
    if tuple(maps.shape[1:3]) == tuple(size):
        return maps
    sides = list(zip(maps.shape[1:3], size, strict=True))
    if all(length % cells == 0 for length, cells in sides):  # several times as fast as a product with matrices
        return ops.average_pool(maps, tuple(length // cells for length, cells in sides), data_format="channels_last")
    rows, columns = (_averages(length, cells) for length, cells in sides)
    return ops.einsum("ih,bhwc,jw->bijc", rows, maps, columns)


def _averages(length: int, cells: int) -> np.ndarray:
    """The matrix `(cells, length)` that averages the entries of each cell."""
    matrix = np.zeros((cells, length), "float32")
    for cell in range(cells):
        start, end = cell * length // cells, -(-(cell + 1) * length // cells)
        matrix[cell, start:end] = 1 / (end - start)
    return matrix


def smaller_size(student: tuple[int, ...], teacher: tuple[int, ...]) -> tuple[int, int]:
    """The smaller of both heights and the smaller of both widths of two shapes `(B, H, W, C)`.

    >>> smaller_size((None, 8, 4, 3), (None, 6, 6, 5))
    (6, 4)
    """
    return min(student[1], teacher[1]), min(student[2], teacher[2])


def pooled_to_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pools two maps `(B, H, W, C)` to the smaller of both heights and the smaller of both widths, float32.

    >>> [maps.shape[1] for maps in pooled_to_common_size(np.zeros((1, 8, 8, 3)), np.zeros((1, 4, 4, 5)))]
    [4, 4]
    """
    size = smaller_size(student.shape, teacher.shape)
    return average_pool_to(student, size), average_pool_to(teacher, size)


def resize_bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes `(B, H, W, C)` to `(B, h, w, C)`, float32, bilinearly with half-pixel centers and no antialiasing.

    >>> resize_bilinear(np.array([0.0, 4.0]).reshape(1, 1, 2, 1), (1, 4)).numpy().ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    maps = ops.cast(maps, "float32")
    if tuple(maps.shape[1:3]) == tuple(size):
        return maps
    return ops.image.resize(maps, size, interpolation="bilinear", data_format="channels_last")


def resize_nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes `(B, H, W)` or `(B, H, W, C)` by nearest neighbor with half-pixel centers, of the same dtype.

    >>> resize_nearest(np.arange(5).reshape(1, 1, 5), (1, 2)).numpy().ravel().tolist()
    [1, 3]
    """
    for axis, (length, cells) in enumerate(zip(maps.shape[1:3], size, strict=True), 1):
        if length != cells and None not in (length, cells):
            maps = ops.take(maps, ((np.arange(cells) + 0.5) * length / cells).astype("int32"), axis=axis)
    return ops.convert_to_tensor(maps)


def pairwise_distances(x: Tensor) -> Tensor:
    """The Euclidean distances `(B, B)` between the vectors `(B, D)`, float32, with zeros on the diagonal.

    The squared distance is at least 1e-12, so that a pair of equal vectors has a gradient, which is zero. The Gram
    matrix is computed in float64, because it cancels between vectors that are near to each other. Memory grows with
    B^2.

    >>> pairwise_distances(np.array([[0.0, 0.0], [3.0, 4.0]])).numpy().round(4).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    x = ops.cast(x, "float64")
    x = x - ops.mean(x, axis=0, keepdims=True)
    square = ops.sum(ops.square(x), axis=-1)
    distance = square[:, None] + square[None, :] - 2 * ops.matmul(x, ops.transpose(x))
    off_diagonal = 1 - ops.eye(ops.shape(x)[0], dtype="float32")
    return ops.cast(ops.sqrt(ops.maximum(distance, 1e-12)), "float32") * off_diagonal
