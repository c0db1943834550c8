"""The int8 kernels and int32 biases of a quantization-aware network in an ONNX graph.

tf2onnx turns the rounding of activations into QuantizeLinear and DequantizeLinear, but has no operation for a range per
channel: TensorFlow rounds the constant kernels before the conversion, and they would be stored as float32. Here each of
them becomes int8 with a DequantizeLinear of one scale per output channel, which onnxruntime computes in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch
from kd_keras.functions.runtimes import onnx_extra

ROUNDING = "FakeQuantWithMinMaxVarsPerChannel"
LARGEST = np.iinfo("int32").max
Kernel: TypeAlias = "tuple[tuple[int, ...], bytes]"  # its shape and its content
KEEPING = {"Transpose", "Reshape", "Pad", "Split", "Squeeze", "Unsqueeze", "Slice", "Gather", "MaxPool", "Identity"}


class _Nodes(NamedTuple):
    """The constants of an ONNX graph by name, and its nodes by the names of their outputs."""

    constants: dict[str, Any]
    producers: dict[str, Any]


def store_int8_kernels(graph: Any, function: Any) -> None:
    """Replaces the rounded float32 kernels of an ONNX graph by int8, and the biases that belong to them by int32.

    Args:
        graph: the `onnx.GraphProto` that was converted from the function; it is changed.
        function: the traced function, whose rounded kernels are constants; without any, the graph stays as it is.

    Raises:
        ValueError: if a rounded kernel is not the kernel of a convolution in the graph.
    """
    steps = _steps_of_kernels(function)
    nodes = _Nodes(
        {tensor.name: tensor for tensor in graph.initializer},
        {name: node for node in graph.node for name in node.output},
    )
    stored: set[Kernel] = set()
    added: dict[int, list[Any]] = {}
    for number, node in enumerate(graph.node):
        if node.op_type == "Conv" and node.input[1] in nodes.constants:
            kernel = _array(nodes.constants[node.input[1]])
            key = kernel.shape, kernel.tobytes()
            if key in steps:
                stored.add(key)
                added[number] = _dequantized(graph, node, nodes, kernel, steps[key])
    if len(stored) < len(steps):
        received = f"{len(steps) - len(stored)} of {len(steps)} kernels that are not"
        advice = "export the network as litert_int8 or as a SavedModel"
        raise ValueError(explain_mismatch("int8 kernels that ONNX stores as those of convolutions", received, advice))
    ordered = [new for number, node in enumerate(graph.node) for new in [*added.get(number, ()), node]]
    del graph.node[:]
    graph.node.extend(ordered)
    _remove_unused_constants(graph)


def _steps_of_kernels(function: Any) -> dict[Kernel, np.ndarray]:
    """The step of each output channel by the rounded kernel, in ONNX's order of axes (O, I, H, W).

    Of kernels that are equal, such as those of only zeros, it is the larger step: the values lie on both grids.
    """
    steps: dict[Kernel, np.ndarray] = {}
    for operation in _operations_before(function.outputs):
        if operation.type == ROUNDING:
            kernel, low, high = (tf.get_static_value(tensor) for tensor in operation.inputs)
            options = {"num_bits": operation.get_attr("num_bits"), "narrow_range": operation.get_attr("narrow_range")}
            with tf.device("CPU"):  # as for the constants of the graph, so that both are equal in every bit
                rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(kernel, low, high, **options)
            values = np.ascontiguousarray(rounded.numpy().transpose(3, 2, 0, 1))
            key, step = (values.shape, values.tobytes()), high / np.float32(2 ** (options["num_bits"] - 1) - 1)
            steps[key] = np.maximum(step, steps.get(key, step))
    return steps


def _operations_before(tensors: Sequence[tf.Tensor]) -> list[Any]:
    """The operations of a graph on which tensors depend; those of outputs that are not served are not in the file."""
    reached: dict[str, Any] = {}
    waiting = [tensor.op for tensor in tensors]
    while waiting:
        operation = waiting.pop()
        if operation.name not in reached:
            reached[operation.name] = operation
            waiting += [tensor.op for tensor in operation.inputs]
    return list(reached.values())


def _dequantized(graph: Any, node: Any, nodes: _Nodes, kernel: np.ndarray, step: np.ndarray) -> list[Any]:
    """Gives a convolution an int8 kernel and an int32 bias; returns the nodes that dequantize them."""
    integers = np.round(kernel / step.reshape(-1, 1, 1, 1)).astype("int8")
    added = [_dequantize(graph, node, 1, integers, step)]
    rounding = _rounding_of(node.input[0], nodes)
    if rounding is None:
        return added
    if nodes.producers[node.input[0]].op_type != "DequantizeLinear":
        added += _rounded_again(node, rounding)
    if len(node.input) > 2 and node.input[2] in nodes.constants:
        unit = (_array(nodes.constants[rounding.input[1]]) * step.astype("float64")).astype("float32")
        multiples = np.round(_array(nodes.constants[node.input[2]]).astype("float64") / unit)
        if np.abs(multiples).max(initial=0) <= LARGEST:
            added.append(_dequantize(graph, node, 2, multiples.astype("int32"), unit))
    return added


def _rounding_of(name: str, nodes: _Nodes) -> Any:
    """The DequantizeLinear whose range a tensor has, or `None`."""
    node = nodes.producers.get(name)
    while node is not None and node.op_type in KEEPING:
        node = nodes.producers.get(node.input[0])
    is_rounded = node is not None and node.op_type == "DequantizeLinear" and node.input[1] in nodes.constants
    return node if is_rounded else None


def _rounded_again(node: Any, rounding: Any) -> list[Any]:
    """Rounds the input of a convolution, which changes no value: onnxruntime looks for it directly before the node."""
    helper = onnx_extra("onnx").helper
    source, integers, values = node.input[0], f"{node.output[0]}/input/integers", f"{node.output[0]}/input"
    node.input[0] = values
    constants = list(rounding.input[1:])
    return [
        helper.make_node("QuantizeLinear", [source, *constants], [integers], f"{values}/quantize"),
        helper.make_node("DequantizeLinear", [integers, *constants], [values], f"{values}/dequantize"),
    ]


def _dequantize(graph: Any, node: Any, index: int, integers: np.ndarray, scale: np.ndarray) -> Any:
    """A node that computes an input of a convolution from integers, which become constants of the graph."""
    onnx = onnx_extra("onnx")
    name = f"{node.output[0]}/{('', 'kernel', 'bias')[index]}"
    zeros = np.zeros(scale.shape, integers.dtype)
    for suffix, values in (("integers", integers), ("scale", scale), ("zero", zeros)):
        graph.initializer.append(onnx.numpy_helper.from_array(values, f"{name}/{suffix}"))
    node.input[index] = name
    names = [f"{name}/{suffix}" for suffix in ("integers", "scale", "zero")]
    return onnx.helper.make_node("DequantizeLinear", names, [name], f"{name}/dequantize", axis=0)


def _remove_unused_constants(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    used |= {name for node in graph.node for name in _names_in_branches(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _names_in_branches(node: Any) -> list[str]:
    """The names that the branches of a node read."""
    branches = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    inner = [one for branch in branches for one in branch.node]
    return [name for one in inner for name in [*one.input, *_names_in_branches(one)]]


def _array(tensor: Any) -> np.ndarray:
    return onnx_extra("onnx").numpy_helper.to_array(tensor)
