"""How many multiply-accumulates does a forward pass take? Counted in the graph that TensorFlow traces."""

from __future__ import annotations

import logging
import math
from typing import Any

import keras
import tensorflow as tf

from kd_keras.private_api import graph_of_called_function

LOGGER = logging.getLogger("kd_keras")


def macs(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> int:
    """The multiply-accumulates of one example's forward pass in convolutions and matrix products.

    They are counted in the traced graph, so the model may be any Keras model: nested, subclassed, with attention, or
    with shared layers (counted each time they run). Biases, normalization, pooling and activations are not counted. Of
    the branches of a condition the most expensive one is counted, and the body of a loop once, with a warning, because
    the graph does not show how often it runs.

    Args:
        model: a built model of one input.
        input_shape: the shape of the input without the batch; the model's own by default.

    Raises:
        ValueError: if that shape, or one inside the model, is not known.

    >>> macs(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 3, padding="same")]))
    8640
    """
    shape = tuple(input_shape or model.input_shape[1:])
    if None in shape:
        raise ValueError(
            f"Multiply-accumulates are counted for an input of known shape, but {model.name!r} has the input shape"
            f" {shape}. Pass input_shape=."
        )
    image = tf.TensorSpec((1, *shape), keras.backend.floatx())
    forward = tf.function(lambda x: model(x, training=False), autograph=False)
    return _count(forward.get_concrete_function(image).graph)


def _count(graph: tf.Graph) -> int:
    """The sum over the operations of a graph and of the functions that it calls."""
    total = 0
    for operation in graph.get_operations():
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            total += _count_function(operation, "f")
        elif operation.type in ("If", "StatelessIf"):
            total += max(_count_function(operation, "then_branch"), _count_function(operation, "else_branch"))
        elif operation.type in ("Case", "StatelessCase"):
            total += max(_count(graph_of_called_function(graph, f.name)) for f in operation.get_attr("branches"))
        elif operation.type in ("While", "StatelessWhile"):
            body = _count_function(operation, "body")
            if body:
                LOGGER.warning("The loop %r runs an unknown number of times; its body is counted once.", operation.name)
            total += body
        elif operation.type in COUNTS:
            count = COUNTS[operation.type](operation)
            if count is None:
                raise ValueError(
                    f"Multiply-accumulates are counted for maps of known size, but operation {operation.name!r} has a"
                    " map of unknown size. Pass a fixed input_shape=."
                )
            total += count
    return total


def _count_function(operation: Any, attribute: str) -> int:
    return _count(graph_of_called_function(operation.graph, operation.get_attr(attribute).name))


def _convolution(operation: Any) -> int | None:
    """Each output value is a sum over the kernel's window and over the channels of its group."""
    return _product(_map_shape(operation), operation.inputs[1].shape[:-1])


def _depthwise(operation: Any) -> int | None:
    return _product(_map_shape(operation), operation.inputs[1].shape[:2])


def _map_shape(operation: Any) -> tf.TensorShape:
    """The shape of a convolution's map.

    A dilated convolution runs on every n-th pixel, between SpaceToBatchND, which pads, and BatchToSpaceND, which crops
    the padding. Values in the padding are not counted, as they are no part of the layer.
    """
    output = operation.outputs[0]
    readers = output.consumers()
    if operation.type == "Conv2D" and [reader.type for reader in readers] == ["Squeeze"]:  # the layer is a Conv1D
        readers = readers[0].outputs[0].consumers()
    restored = [reader.outputs[0] for reader in readers if reader.type == "BatchToSpaceND"]
    return restored[0].shape if restored else output.shape


def _transposed(operation: Any) -> int | None:
    """Each input value is spread over the kernel's window and over the output channels."""
    return _product(operation.inputs[2].shape, operation.inputs[1].shape[:-1])


def _matrix_product(operation: Any) -> int | None:
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    return _product(operation.outputs[0].shape, operation.inputs[0].shape[-2 if transposed else -1 :][:1])


def _einsum(operation: Any) -> int | None:
    """The product of the sizes of all letters, each counted once."""
    operands, _ = operation.get_attr("equation").decode().split("->")
    sizes: dict[str, int | None] = {}
    for letters, tensor in zip(operands.split(","), operation.inputs, strict=True):
        before, dots, after = letters.partition("...")
        shape = tensor.shape.as_list()
        sizes.update(zip(before, shape, strict=False))  # an ellipsis stands for any number of axes
        sizes.update(zip(reversed(after), reversed(shape), strict=False))
        if dots:
            inner = shape[len(before) : len(shape) - len(after)]
            sizes.update({f"...{index}": size for index, size in enumerate(reversed(inner)) if size != 1})
    return _product(sizes.values())


def _product(*shapes: Any) -> int | None:
    """The product of all sizes, or `None` if one of them is not known."""
    sizes = [size for shape in shapes for size in shape]
    return None if None in sizes else math.prod(sizes)


COUNTS = {
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
    "MatMul": _matrix_product,
    "BatchMatMul": _matrix_product,
    "BatchMatMulV2": _matrix_product,
    "BatchMatMulV3": _matrix_product,
    "Einsum": _einsum,
}
