"""The maths that several methods share, in `keras.ops` and float32. Every function takes the student first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

Tensor = Any  # as kd_keras.contracts has it, on the same floor


def softened_kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """KL(p_t || p_s) of the distributions softened by a temperature, an example at a time.

    p = softmax(z / T) and KL(p_t || p_s) = sum_k p_t,k (log p_t,k - log p_s,k), from log-softmax, so that it stays
    finite for logits of any finite size. There is no T^2 here.

    At a high temperature the two nearly agree and the terms of that sum nearly cancel, which costs float32 four of its
    seven digits. Adding sum_k (p_s,k - p_t,k), which is zero, makes every term p_t (d + exp(-d) - 1) with
    d = log p_t - log p_s: none is negative, and a rounding error in d counts only d times itself.

    Args:
        student: `(B, K)` logits z_s, any float dtype; computed in float32.
        teacher: `(B, K)` logits z_t; no gradient is stopped here.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, 0 or more.

    >>> import numpy as np
    >>> round(float(softened_kl(np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]]))[0]), 4)
    0.1308
    """
    log_student = ops.log_softmax(ops.cast(student, "float32") / temperature, axis=-1)
    log_teacher = ops.log_softmax(ops.cast(teacher, "float32") / temperature, axis=-1)
    p_student, p_teacher, d = ops.exp(log_student), ops.exp(log_teacher), log_teacher - log_student
    near = d > -30.0  # else p_s is all of the term, and exp(-d) may overflow
    term = p_teacher * (d + ops.expm1(-ops.where(near, d, 0.0)))
    return ops.sum(ops.where(near, term, p_student - p_teacher + p_teacher * d), axis=-1)


def as_list(maps: Tensor | list[Tensor]) -> list[Tensor]:
    """A list of maps; one map alone may come without its list."""
    return list(maps) if isinstance(maps, (list, tuple)) else [maps]


def flatten(x: Tensor) -> Tensor:
    """`(B, ...)` as float32 `(B, D)`."""
    return ops.reshape(ops.cast(x, "float32"), (-1, math.prod(x.shape[1:])))


def mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two tensors `(B, ...)` over all elements of an example: `(B,)` float32."""
    difference = ops.cast(student, "float32") - ops.cast(teacher, "float32")
    return ops.mean(ops.square(difference), axis=tuple(range(1, len(difference.shape))))


def l2_normalize(x: Tensor, axis: int = -1) -> Tensor:
    """`x / ||x||_2` along an axis, float32.

    A vector of zeros, such as a dead channel, has no direction: it stays zero and gets no gradient.

    >>> l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]], "float32")).numpy().round(4).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    x = ops.cast(x, "float32")
    square = ops.sum(ops.square(x), axis=axis, keepdims=True)
    alive = square > 1e-24  # a norm of 1e-12, below which references divide by that
    return ops.where(alive, x * ops.rsqrt(ops.where(alive, square, 1.0)), 0.0)


def attention(maps: Tensor, power: float = 2.0) -> Tensor:
    """The attention map of `(B, H, W, C)`: the mean of |x|^p over channels as a unit vector `(B, H W)`.

    Zagoruyko and Komodakis 2017, 1612.03928, equation 2.
    """
    maps = ops.cast(maps, "float32")
    powers = ops.square(maps) if power == 2 else ops.abs(maps) ** power
    return l2_normalize(flatten(ops.mean(powers, axis=-1)))


def pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pools `(B, H, W, C)` to `(B, h, w, C)`: row i is the mean of rows i H / h, rounded down, to (i + 1) H / h
    rounded up; so are columns.

    >>> pooled(np.arange(3.0).reshape(1, 3, 1, 1), (2, 1)).numpy().ravel().tolist()
    [0.5, 1.5]
    """
    maps = ops.cast(maps, "float32")
    if tuple(maps.shape[1:3]) == tuple(size):
        return maps
    rows, columns = (_averages(length, cells) for length, cells in zip(maps.shape[1:3], size))
    return ops.einsum("ih,bhwc,jw->bijc", rows, maps, columns)


def _averages(length: int, cells: int) -> np.ndarray:
    """The matrix `(cells, length)` that averages over each cell."""
    matrix = np.zeros((cells, length), "float32")
    for cell in range(cells):
        start, end = cell * length // cells, -(-(cell + 1) * length // cells)
        matrix[cell, start:end] = 1 / (end - start)
    return matrix


def pooled_to_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps `(B, H, W, C)` of one size: the larger is average-pooled to the smaller."""
    size = tuple(min(ours, theirs) for ours, theirs in zip(student.shape[1:3], teacher.shape[1:3]))
    return pooled(student, size), pooled(teacher, size)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """`(B, H, W, C)` to `(B, h, w, C)`, float32, bilinearly with half-pixel centres."""
    maps = ops.cast(maps, "float32")
    if tuple(maps.shape[1:3]) == tuple(size):
        return maps
    return ops.image.resize(maps, size, interpolation="bilinear", data_format="channels_last")


def distances(x: Tensor) -> Tensor:
    """The Euclidean distances `(B, B)` of vectors `(B, D)`, with zeros on the diagonal.

    The square is at least 1e-12, so that a pair of equal vectors has a gradient, which is zero. The Gram matrix is
    that of centred vectors: distances stay the same, and less cancels. Memory: B^2.
    """
    x = ops.cast(x, "float32")
    x = x - ops.mean(x, axis=0, keepdims=True)
    square = ops.sum(ops.square(x), axis=-1)
    between = square[:, None] + square[None, :] - 2 * ops.matmul(x, ops.transpose(x))
    others = 1 - ops.eye(ops.shape(x)[0], dtype="float32")
    return ops.sqrt(ops.maximum(between, 1e-12)) * others
