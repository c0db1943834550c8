"""What LiteRT's int8 kernels need of each operation of a network.

The kinds of operations:

* "kernel": a convolution, depthwise convolution or dense layer. Its output is rounded once, after a ReLU or ReLU6.
* "scale": a scale and an offset for each channel, which become a depthwise convolution.
* "sum": an addition, subtraction or multiplication of two tensors. Its output is rounded after a ReLU or ReLU6.
* "join": a concatenation. Its output is rounded; the tensors that only it reads are not.
* "mean": a global average pooling, whose output has a range of its own.
* "pool": an average pooling, whose output has the range of its input.
* "select": what returns values of its input, such as a maximum pooling, a reshape or zeros around a map.
* "same": what changes no value in inference.
* "relu", "relu6", "leaky", "sigmoid", "tanh", "hard_sigmoid", "hard_swish", "silu", "softmax": activations.
* "float": everything else, which stays in float.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from kd_keras.networks.folding import FOLDABLE, affine_of, computes_plainly
from kd_keras.networks.graph import Edge, Linear, Operation

SELECTING: tuple[str, ...] = (
    "Reshape",
    "Flatten",
    "Permute",
    "Transpose",
    "Squeeze",
    "ExpandDims",
    "Split",
    "GetItem",
    "Take",
)
SELECTING += ("ZeroPadding2D", "Cropping2D", "MaxPooling2D", "GlobalMaxPooling2D", "RepeatVector")
SELECTING += ("Dropout", "SpatialDropout2D")  # which are the identity in inference
UNCHANGING = ("Identity", "ActivityRegularization", "StopGradient", "Folded")
SUMS = ("Add", "Subtract", "Multiply")
FIXED_RANGES = {  # those that LiteRT's kernels have
    "sigmoid": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
    "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 255 / 256),
}
ACTIVATIONS = {
    "relu": "relu", "relu6": "relu6", "leaky_relu": "leaky", "sigmoid": "sigmoid", "tanh": "tanh",
    "hard_sigmoid": "hard_sigmoid", "hard_silu": "hard_swish", "hard_swish": "hard_swish", "silu": "silu",
    "swish": "silu", "softmax": "softmax", "linear": "same",
}  # fmt: skip
OPERATIONS = {"Relu": "relu", "Relu6": "relu6", "LeakyRelu": "leaky", "Sigmoid": "sigmoid", "Tanh": "tanh"}
OPERATIONS |= {"HardSigmoid": "hard_sigmoid", "HardSilu": "hard_swish", "HardSwish": "hard_swish", "Silu": "silu"}
OPERATIONS |= {"LeakyReLU": "leaky", "Softmax": "softmax", "AveragePooling2D": "pool", "Concatenate": "join"}
OPERATIONS |= {"GlobalAveragePooling2D": "mean", "Mean": "mean"}
OPERATIONS |= dict.fromkeys(SELECTING, "select") | dict.fromkeys(UNCHANGING, "same")


class Scale(NamedTuple):
    """A scale and an offset `(C,)` for each channel, and whether they are learned."""

    scale: np.ndarray
    offset: np.ndarray
    is_learned: bool


def kind_of(edge: Edge, numbers: tuple[Any, ...] = ()) -> str:
    """The kind of a call of an operation, as the description of this file lists them.

    Args:
        edge: the call.
        numbers: the arguments of the call that are numbers, in order.

    >>> from kd_keras.networks.graph import Graph
    >>> graph = Graph(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu")]))
    >>> [kind_of(edge) for edge in graph.calls]
    ['kernel', 'relu']
    """
    operation, name = edge.original, type(edge.original).__name__
    if scale_of(edge, numbers) is not None:
        return "scale"
    if isinstance(operation, FOLDABLE):
        return "kernel" if _is_supported_kernel(edge) else "float"
    if isinstance(operation, layers.ReLU):
        is_plain = not operation.negative_slope and not operation.threshold
        return {None: "relu", 6.0: "relu6"}.get(operation.max_value, "float") if is_plain else "float"
    if isinstance(operation, layers.Activation):
        return ACTIVATIONS.get(getattr(operation.activation, "__name__", ""), "float")
    if name in SUMS:
        is_pair = len(edge.sources) == 2 and not numbers and edge.sources[0].dtype == edge.sources[1].dtype
        return "sum" if is_pair else "float"
    if isinstance(operation, layers.UpSampling2D):
        return "select" if operation.interpolation == "nearest" else "float"
    return OPERATIONS.get(name, "float")


def scale_of(edge: Edge, numbers: tuple[Any, ...] = ()) -> Scale | None:
    """The scale and the offset of a BatchNorm, a Normalization, a Rescaling, or a sum or product with a number."""
    operation, shape = edge.original, edge.results[0].shape
    if len(shape) not in (2, 4) or shape[-1] is None:
        return None
    if type(operation) is layers.BatchNormalization:
        return _scale_of_norm(operation) if operation.axis % len(shape) == len(shape) - 1 else None
    if (affine := affine_of(edge, False)) is not None:
        return Scale(*affine, is_learned=False)
    if len(edge.sources) != 1 or len(numbers) != 1:
        return None
    number = float(numbers[0])
    name = type(operation).__name__
    changes = {"Add": (1.0, number), "Multiply": (number, 0.0), "Subtract": (1.0, -number)}
    if name in ("Divide", "TrueDivide") and number:
        changes[name] = (1 / number, 0.0)
    if name not in changes:
        return None
    scale, offset = changes[name]
    return Scale(np.full(shape[-1], scale), np.full(shape[-1], offset), is_learned=False)


def _scale_of_norm(norm: layers.BatchNormalization) -> Scale:
    mean, variance = (np.array(values, "float64") for values in (norm.moving_mean, norm.moving_variance))
    scale = (1.0 if norm.gamma is None else np.array(norm.gamma, "float64")) / np.sqrt(variance + norm.epsilon)
    offset = (0.0 if norm.beta is None else np.array(norm.beta, "float64")) - mean * scale
    return Scale(scale, offset, is_learned=True)


def _is_supported_kernel(edge: Edge) -> bool:
    operation = edge.original
    is_fused = operation.activation is not keras.activations.linear and not is_split(edge)
    if is_fused or not computes_plainly(operation):
        return False
    shape = edge.sources[0].shape
    if isinstance(operation, layers.Dense):
        return len(shape) == 2 or (len(shape) == 4 and shape[1:3] == (1, 1))
    return len(shape) == 4


def is_split(edge: Edge) -> bool:
    """Whether a call is that of a layer without its fused activation, which is a call of its own."""
    renamed = getattr(edge.operation, "operation", None)  # of an operation whose name is not unique
    return isinstance(edge.operation, Linear) or isinstance(renamed, Linear)


def is_channels_first(operation: Operation) -> bool:
    """Whether a layer has its channels on axis 1, which LiteRT does not support."""
    return getattr(operation, "data_format", None) == "channels_first"


def numbers_of(node: Any) -> tuple[float, ...]:
    """The numbers that an operation is called with, if it can be read as `tensor, number`."""
    args = node.arguments.args
    if len(args) != 2:
        return ()
    first, second = args
    if isinstance(first, (int, float)) and type(node.operation).__name__ in ("Add", "Multiply"):
        first, second = second, first
    is_pair = isinstance(first, keras.KerasTensor) and isinstance(second, (int, float)) and not isinstance(second, bool)
    return (second,) if is_pair else ()
