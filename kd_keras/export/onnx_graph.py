"""A traced function as an ONNX model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.export.onnx_kernels import store_int8_kernels
from kd_keras.export.runtimes import onnx_extra
from kd_keras.export.writing import join_names


def convert_to_onnx(
    serve: Callable[[tf.Tensor], Any], image_shape: Sequence[int], class_names: Sequence[str] | None, network: str
) -> bytes:
    """The content of an ONNX file of a function from uint8 images `(B, H, W, C)` to a dictionary of tensors `(B, ...)`.

    Args:
        serve: the function.
        image_shape: `(H, W, C)`.
        class_names: for the metadata entry `class_names`, or `None`.
        network: the name of the network, for the error message.

    Raises:
        ValueError: if ONNX does not support the network, or the extra `onnx` is not installed.
    """
    tf2onnx = onnx_extra("tf2onnx")
    onnx_extra("onnxruntime")
    images = tf.TensorSpec((None, *image_shape), tf.uint8, name="images")
    function = tf.function(serve)
    try:
        with _silenced(logging.getLogger("tf2onnx")):
            handlers: dict[str, tuple] = {"Erfc": (_write_erfc, [])}
            written, _ = tf2onnx.convert.from_function(function, [images], opset=17, custom_op_handlers=handlers)
    except Exception as error:  # of many types, by the unsupported layer
        raise ValueError(
            f"ONNX cannot store the network {network!r}. The converter reports"
            f" {type(error).__name__}: {str(error)[:500]}"
        ) from error
    traced = function.get_concrete_function(images)
    _embed_captured_tensors(written.graph, traced)
    store_int8_kernels(written.graph, traced)
    for value in [*written.graph.input, *written.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if class_names:
        written.metadata_props.add(key="class_names", value=join_names(class_names))
    return written.SerializeToString()


def _write_erfc(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """Writes Erfc, which GELU uses and ONNX lacks, as 1 - erf(x); tf2onnx alone would leave it unconverted."""
    one = graph.make_const(f"{name}_one", np.ones((), "float32"))
    erf = graph.make_node("Erf", node.input, name=f"{name}_erf")
    outputs, kinds, shapes = node.output, node.output_dtypes, node.output_shapes
    graph.remove_node(node.name)
    parts = [one.output[0], erf.output[0]]
    graph.make_node("Sub", parts, outputs=outputs, name=name, dtypes=kinds, shapes=shapes)


def _embed_captured_tensors(graph: Any, function: Any) -> None:
    """Stores in an ONNX graph the tensors that a traced function captures.

    tf2onnx stores captured variables, but turns other captured tensors into inputs of the graph. Layers with constant
    tensors, such as Keras's Normalization, have them.
    """
    numpy_helper = onnx_extra("onnx").numpy_helper
    captured = function.captured_inputs
    names = [tensor.name for tensor in function.inputs[len(function.inputs) - len(captured) :]]
    tensors = dict(zip(names, captured, strict=True))
    for value in [value for value in graph.input if value.name in tensors]:
        graph.initializer.append(numpy_helper.from_array(tensors[value.name].numpy(), value.name))
        graph.input.remove(value)


@contextlib.contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    """Silences tf2onnx, which logs a traceback for attempts that it recovers from; the runtime finds real errors."""
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
