"""Trainable maps from a student's tap to a teacher's."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from kd_keras.contracts import TapSpec
from kd_keras.errors import explain_mismatch


def regressor(student: TapSpec, teacher: TapSpec, *, relu: bool = True) -> keras.layers.Layer:
    """A convolution, BatchNorm and, by default, ReLU from maps of the student's shape to the teacher's.

    The convolution is 3x3 with stride 2 where the student's map is twice as large, a transposed 4x4 with stride 2
    where it is half as large, and otherwise one without padding whose kernel is what the sizes differ by plus one.
    Where the shapes agree it is the identity and has no variables.

    Args:
        student: what the student's tap delivers, `(None, H, W, C)`.
        teacher: what the teacher's tap delivers.
        relu: whether a ReLU ends it; no for maps before their activation.

    Returns:
        A built layer from `(B, Hs, Ws, Cs)` to `(B, Ht, Wt, Ct)`, float32 inside.

    Raises:
        ValueError: where either is no map, or no such convolution leads from one size to the other.

    >>> regressor(TapSpec("a", (None, 16, 16, 8)), TapSpec("b", (None, 8, 8, 32))).output_shape
    (None, 8, 8, 32)
    """
    if len(student.shape) != 4 or len(teacher.shape) != 4:
        raise ValueError(explain_mismatch("two maps (B, H, W, C)", _both(student, teacher), 'tap a stage, e.g. "stages[1]"'))
    if student.shape[1:] == teacher.shape[1:]:
        return layers.Identity(dtype="float32")
    activation = [layers.ReLU(dtype="float32")] if relu else []
    return chain(student, _convolution(student, teacher), batch_norm(), *activation, name="regressor")


def convolution(width: int, kernel_size: int | tuple[int, int] = 1, **options: Any) -> keras.layers.Layer:
    """A convolution in float32, without bias and with He's initial values unless `options` say otherwise."""
    defaults = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal", "dtype": "float32"}
    return layers.Conv2D(width, kernel_size, **defaults | options)


def batch_norm() -> keras.layers.Layer:
    """BatchNorm in float32 over the global batch, so that several replicas adapt as one does."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=True, dtype="float32")


def chain(spec: TapSpec, *parts: keras.layers.Layer, name: str) -> keras.Sequential:
    """Layers one after the other, built for what a tap delivers.

    >>> chain(TapSpec("a", (None, 8, 8, 4)), convolution(6), batch_norm(), name="adapter").output_shape
    (None, 8, 8, 6)
    """
    return keras.Sequential([keras.Input(spec.shape[1:], dtype="float32"), *parts], name=name)


def aligned(student: TapSpec, teacher: TapSpec, **options: Any) -> keras.layers.Layer:
    """A 1x1 convolution from maps of the student's width to the teacher's, or the identity where they agree."""
    if student.shape[-1] == teacher.shape[-1]:
        return layers.Identity(dtype="float32")
    return chain(student, convolution(teacher.shape[-1], **options), name="aligned")


def to_grid(student: TapSpec, teacher: TapSpec) -> keras.Sequential:
    """A linear layer over channels, at each position alone, and a bilinear resize where the grids differ.

    Raises:
        ValueError: where the teacher's grid has no known size.

    >>> to_grid(TapSpec("a", (None, 7, 7, 8)), TapSpec("b", (None, 14, 14, 32))).output_shape
    (None, 14, 14, 32)
    """
    height, width, channels = teacher.shape[1:]
    if None in (height, width):
        remedy = "build the teacher with a fixed input_shape"
        raise ValueError(explain_mismatch("a teacher's map of known size", _both(student, teacher), remedy))
    normal = keras.initializers.TruncatedNormal(stddev=0.02)
    parts = [layers.Dense(channels, kernel_initializer=normal, dtype="float32")]
    if student.shape[1:3] != teacher.shape[1:3]:
        parts.append(layers.Resizing(height, width, "bilinear", data_format="channels_last", dtype="float32"))
    return chain(student, *parts, name="to_grid")


def linear(spec: TapSpec, width: int, **options: Any) -> keras.Sequential:
    """A dense layer in float32 from a tap's vectors to those of another width.

    >>> linear(TapSpec("pool", (None, 64)), 128).output_shape
    (None, 128)
    """
    return chain(spec, layers.Dense(width, **{"dtype": "float32"} | options), name="linear")


def _convolution(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    sizes, targets, width = student.shape[1:3], teacher.shape[1:3], teacher.shape[3]
    if sizes == targets:  # also where both are free
        return convolution(width)
    if None in sizes + targets:
        raise ValueError(explain_mismatch("maps of known size", _both(student, teacher), "build both with a fixed input_shape"))
    if all(size == 2 * target for size, target in zip(sizes, targets)):
        return convolution(width, 3, strides=2)
    if all(2 * size == target for size, target in zip(sizes, targets)):
        return layers.Conv2DTranspose(
            width, 4, strides=2, padding="same", use_bias=False, kernel_initializer="he_normal", dtype="float32"
        )
    if all(size >= target for size, target in zip(sizes, targets)):
        kernel = tuple(1 + size - target for size, target in zip(sizes, targets))
        return convolution(width, kernel, padding="valid")
    remedy = "tap stages whose sizes are equal, double or half, or a larger map of the student"
    raise ValueError(explain_mismatch("a student's map at least as large as the teacher's", _both(student, teacher), remedy))


def _both(student: TapSpec, teacher: TapSpec) -> str:
    return f"student {student.layer!r} {student.shape}, teacher {teacher.layer!r} {teacher.shape}"
