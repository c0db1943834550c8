"""Trainable layers that map a tap of the student to the shape of a tap of the teacher.

Their initial values are PyTorch's defaults, as in the published implementations: uniform up to 1 / sqrt(fan-in). Only
the kernels of `grid_adapter` and `token_adapter` are truncated normal, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from kd_keras.contracts import TapSpec
from kd_keras.errors import explain_mismatch
from kd_keras.networks.specs import Specs


def hint_regressor(
    student: TapSpec, teacher: TapSpec, *, relu: bool = True, regress_equal: bool = False
) -> keras.layers.Layer:
    """A trainable layer from the student's tap to the shape of the teacher's.

    For maps it is a convolution, BatchNorm and, by default, ReLU; for vectors and tokens a linear layer.

    The convolution is 3x3 with stride 2 if the student's map is twice as large, a transposed 4x4 with stride 2 if it is
    half as large, and otherwise unpadded with a kernel of 1 + Hs - Ht by 1 + Ws - Wt.

    Args:
        student: the specification of the student's tap: a map `(None, Hs, Ws, Cs)`, a vector `(None, Ds)` or tokens
            `(None, N, Ds)`.
        teacher: the specification of the teacher's tap, of the same rank; tokens of the same number.
        relu: whether a ReLU follows; pass False for maps before their activation.
        regress_equal: whether taps of equal shapes get such a layer, too, instead of the identity without variables.

    Returns:
        A built layer from `(B, Hs, Ws, Cs)` to `(B, Ht, Wt, Ct)`, or from `(B, Ds)` to `(B, Dt)`, in float32.

    Raises:
        ValueError: if the ranks or the numbers of tokens differ, or if no such convolution leads from one size to the
            other.

    >>> hint_regressor(TapSpec("a", (None, 16, 16, 8)), TapSpec("b", (None, 8, 8, 32))).output_shape
    (None, 8, 8, 32)
    """
    rank = len(student.shape)
    if rank != len(teacher.shape) or rank not in (2, 3, 4) or (rank == 3 and student.shape[1] != teacher.shape[1]):
        expected = "two maps (B, H, W, C), two vectors (B, D), or tokens (B, N, D) of the same number"
        advice = 'tap layers of the same kind, for example "stages[1]" of networks with maps'
        raise ValueError(explain_mismatch(expected, describe_pair(student, teacher), advice))
    if student.shape[1:] == teacher.shape[1:] and not regress_equal:
        return layers.Identity(dtype="float32")
    if rank < 4:
        return dense_adapter(student, teacher.shape[-1])
    activation = [layers.ReLU(dtype="float32")] if relu else []
    return chain(student, *_resizing_conv(student, teacher), batch_norm(), *activation, name="hint_regressor")


def fan_in_uniform(fan_in: int | None = None) -> keras.initializers.Initializer:
    """Initial values between -1 / sqrt(fan-in) and 1 / sqrt(fan-in).

    Args:
        fan_in: the number of inputs of each output; by default that of the kernel's shape, which a bias does not have.
    """
    if fan_in is None:
        return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def fan_in_initializers(fan_in: int) -> dict[str, keras.initializers.Initializer]:
    """The arguments of a layer whose kernel and bias start uniform up to 1 / sqrt(fan-in).

    >>> sorted(fan_in_initializers(64))
    ['bias_initializer', 'kernel_initializer']
    """
    return {name: fan_in_uniform(fan_in) for name in ("kernel_initializer", "bias_initializer")}


def conv(filters: int, kernel_size: int | tuple[int, int] = 1, **options: Any) -> keras.layers.Layer:
    """A convolution in float32, by default with "same" padding and without bias."""
    defaults = {"padding": "same", "use_bias": False, "kernel_initializer": fan_in_uniform(), "dtype": "float32"}
    return layers.Conv2D(filters, kernel_size, **defaults | options)


def batch_norm() -> keras.layers.Layer:
    """BatchNorm in float32 over the global batch, so that several replicas compute what one replica would."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=True, dtype="float32")


def chain(spec: TapSpec, *parts: keras.layers.Layer, name: str) -> keras.Sequential:
    """A Sequential model of some layers, built for the shape of a tap.

    >>> chain(TapSpec("a", (None, 8, 8, 4)), conv(6), batch_norm(), name="adapter").output_shape
    (None, 8, 8, 6)
    """
    return keras.Sequential([keras.Input(spec.shape[1:], dtype="float32"), *parts], name=name)


def width_adapter(student: TapSpec, teacher: TapSpec, **options: Any) -> keras.layers.Layer:
    """A 1x1 convolution from the student's number of channels to the teacher's; the identity if they are equal.

    >>> width_adapter(TapSpec("a", (None, 8, 8, 4)), TapSpec("b", (None, 4, 4, 6))).output_shape
    (None, 8, 8, 6)
    """
    if student.shape[-1] == teacher.shape[-1]:
        return layers.Identity(dtype="float32")
    return chain(student, conv(teacher.shape[-1], **options), name="width_adapter")


def grid_adapter(student: TapSpec, teacher: TapSpec) -> keras.Sequential:
    """A linear layer over the channels of each position, and a bilinear resize to the teacher's grid if they differ.

    Raises:
        ValueError: if the teacher's map has no fixed size.

    >>> grid_adapter(TapSpec("a", (None, 7, 7, 8)), TapSpec("b", (None, 14, 14, 32))).output_shape
    (None, 14, 14, 32)
    """
    height, width, channels = teacher.shape[1:]
    if None in (height, width):
        received, advice = describe_pair(student, teacher), "build the teacher with a fixed input_shape"
        raise ValueError(explain_mismatch("a teacher map of known size", received, advice))
    parts = [_linear(student, channels)]
    if student.shape[1:3] != teacher.shape[1:3]:
        parts.append(layers.Resizing(height, width, "bilinear", data_format="channels_last", dtype="float32"))
    return chain(student, *parts, name="grid_adapter")


def have_equal_tokens(student: TapSpec, teacher: TapSpec) -> bool:
    """Whether both taps are tokens `(B, N, D)` of the same known number N.

    >>> have_equal_tokens(TapSpec("a", (None, 17, 16)), TapSpec("b", (None, 17, 32)))
    True
    """
    return len(student.shape) == len(teacher.shape) == 3 and None is not student.shape[1] == teacher.shape[1]


def token_adapter(student: TapSpec, teacher: TapSpec) -> keras.Sequential:
    """A linear layer from each token of the student to the teacher's width.

    >>> token_adapter(TapSpec("a", (None, 17, 16)), TapSpec("b", (None, 17, 32))).output_shape
    (None, 17, 32)
    """
    return chain(student, _linear(student, teacher.shape[-1]), name="token_adapter")


def _linear(spec: TapSpec, width: int) -> keras.layers.Layer:
    """A linear layer whose kernel is initialized as those of transformers are."""
    kernel, bias = keras.initializers.TruncatedNormal(stddev=0.02), fan_in_uniform(spec.shape[-1])
    return layers.Dense(width, kernel_initializer=kernel, bias_initializer=bias, dtype="float32")


def dense_adapter(spec: TapSpec, width: int, **options: Any) -> keras.Sequential:
    """A Dense layer in float32 from the vectors of a tap to vectors of another width.

    >>> dense_adapter(TapSpec("pool", (None, 64)), 128).output_shape
    (None, 128)
    """
    options = {"dtype": "float32"} | fan_in_initializers(spec.shape[-1]) | options
    return chain(spec, layers.Dense(width, **options), name="dense_adapter")


def vector_adapter(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    """A linear layer without bias from the student's vectors to the teacher's width; the identity if it is the same.

    >>> vector_adapter(TapSpec("a", (None, 64)), TapSpec("b", (None, 128))).output_shape
    (None, 128)
    """
    if student.shape[-1] == teacher.shape[-1]:
        return layers.Identity(dtype="float32")
    return dense_adapter(student, teacher.shape[-1], use_bias=False)


def add_class_centers(method: keras.layers.Layer, teacher: Specs) -> keras.Variable:
    """A frozen variable `(D, K)` of a method with the centers of the teacher's classes in the space of its embedding.

    Args:
        method: the method, whose taps of the teacher are its embedding and its logits.
        teacher: the specifications of these taps. After loading from a file they have no network; the values are then
            those of the weights file.

    Raises:
        ValueError: if the classifier does not read the embedding.
    """
    shape = teacher["embedding"].shape[-1], teacher["logits"].shape[-1]
    variable = method.add_weight(name="centers", shape=shape, initializer="zeros", trainable=False)
    centers = teacher.class_centers()
    if centers is not None:
        if centers.shape != shape:
            expected = f"class centers {shape} of the teacher, for the embedding {teacher['embedding'].layer!r}"
            advice = "choose a teacher whose classifier reads its embedding, such as models.recognizer"
            raise ValueError(explain_mismatch(f"{expected}, for method {method.name!r}", str(centers.shape), advice))
        variable.assign(centers)
    return variable


def describe_pair(student: TapSpec, teacher: TapSpec) -> str:
    """Both layers with their shapes, for error messages.

    >>> describe_pair(TapSpec("conv", (None, 8)), TapSpec("pool", (None, 4)))
    "student 'conv' (None, 8) and teacher 'pool' (None, 4)"
    """
    return f"student {student.layer!r} {student.shape} and teacher {teacher.layer!r} {teacher.shape}"


def check_map_sequences(method: str, pairs: Sequence[tuple[TapSpec, TapSpec]]) -> None:
    """Checks that both networks have two or more maps, each pair with the same number of channels.

    Args:
        method: the name of the method, for the error message.
        pairs: the specifications of the student's and the teacher's maps.

    Raises:
        ValueError: if there is only one pair, or if the channels of a pair differ.
    """
    if len(pairs) < 2:
        expected = f"two or more maps of each network for method {method!r}"
        raise ValueError(explain_mismatch(expected, describe_pair(*pairs[0]), 'tap "stages"'))
    for student, teacher in pairs:
        if student.shape[-1] != teacher.shape[-1]:
            expected = f"maps with the same channels for method {method!r}"
            advice = "choose a student as wide as the teacher, or a method with adapters, for example FitNet"
            raise ValueError(explain_mismatch(expected, describe_pair(student, teacher), advice))


def with_any_size(spec: TapSpec) -> TapSpec:
    """The specification of a map `(B, H, W, C)` with a free height and width.

    >>> with_any_size(TapSpec("a", (None, 8, 8, 4))).shape
    (None, None, None, 4)
    """
    return TapSpec(spec.layer, (None, None, None, spec.shape[-1]))


def _resizing_conv(student: TapSpec, teacher: TapSpec) -> list[keras.layers.Layer]:
    sizes, targets, filters = student.shape[1:3], teacher.shape[1:3], teacher.shape[3]
    if sizes == targets:  # also if both are free
        return [conv(filters)]
    received = describe_pair(student, teacher)
    if None in sizes + targets:
        advice = "build both networks with a fixed input_shape"
        raise ValueError(explain_mismatch("maps of known size", received, advice))
    pairs = list(zip(sizes, targets, strict=True))
    if all(size == 2 * target for size, target in pairs):
        # The published padding is one pixel on each side; "same" pads an even size on one side only.
        return [
            layers.ZeroPadding2D(1, data_format="channels_last", dtype="float32"),
            conv(filters, 3, strides=2, padding="valid"),
        ]
    if all(2 * size == target for size, target in pairs):
        options = {"padding": "same", "use_bias": False, "kernel_initializer": fan_in_uniform(), "dtype": "float32"}
        return [layers.Conv2DTranspose(filters, 4, strides=2, **options)]
    if all(size >= target for size, target in pairs):
        return [conv(filters, tuple(1 + size - target for size, target in pairs), padding="valid")]
    advice = "tap stages of equal, double or half size, or a larger map of the student"
    raise ValueError(explain_mismatch("a student map at least as large as the teacher map", received, advice))
