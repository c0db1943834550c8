"""What does a model cost: parameters, multiply-accumulates and time?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch

WARM_UP = 10
BATCH = 32


def cost(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> Iterator[tuple[str, int]]:
    """Yields what a model costs anywhere: `parameters`, all its variables, and `macs` of one example, as `macs` has it.

    >>> dict(cost(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])))
    {'parameters': 15, 'macs': 12}
    """
    yield "parameters", model.count_params()
    yield "macs", macs(model, input_shape)


def latency(models: Mapping[str, tuple[keras.Model, np.ndarray]], runs: int = 100) -> dict[str, dict[str, float]]:
    """What models cost in time on this machine, one run of each in turns: what else it does falls on all alike.

    Args:
        models: by name, a built Keras model of one input, and `(N, ...)` examples as it reads them; repeated where they
            are fewer than 32.
        runs: how many are timed of one example, after ten that are not; a fifth of that, at least three, of a batch.

    Returns:
        By name `milliseconds` and `milliseconds_p95`, the median and the 95th percentile of the time of one example
        alone, and `milliseconds_32` and `milliseconds_32_p95`, those of a batch of 32.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> sorted(latency({"small": (model, np.ones((1, 4), "float32"))}, runs=3)["small"])
    ['milliseconds', 'milliseconds_32', 'milliseconds_32_p95', 'milliseconds_p95']
    """
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    calls = {name: tf.function(partial(model, training=False)) for name, (model, _) in models.items()}
    batches = {name: np.resize(examples, (BATCH, *examples.shape[1:])) for name, (_, examples) in models.items()}
    for ending, size, count in (("", 1, runs), ("_32", BATCH, max(3, runs // 5))):
        inputs = {name: np.split(batch, BATCH // size) for name, batch in batches.items()}
        for name, times in milliseconds(calls, inputs, count).items():
            found[name][f"milliseconds{ending}"] = float(np.median(times))
            found[name][f"milliseconds{ending}_p95"] = float(np.percentile(times, 95))
    return found


def milliseconds(
    calls: Mapping[str, Callable[[Any], Any]], inputs: Mapping[str, Sequence[Any]], runs: int
) -> dict[str, list[float]]:
    """The times of so many runs of each call, in turns, going round its inputs, after ten that are not timed.

    A call has ended when its results stand in the memory of the host.
    """
    tensors = {name: [tf.constant(each) for each in given] for name, given in inputs.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(WARM_UP + runs):
        for name, forward in calls.items():
            start = time.perf_counter()
            keras.tree.map_structure(np.asarray, forward(tensors[name][run % len(tensors[name])]))
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: each[WARM_UP:] for name, each in times.items()}


def macs(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> int:
    """The multiply-accumulates of one example's forward pass: those of convolutions and matrix products.

    The graph that TensorFlow traces is walked, so that it may be any Keras model: nested, subclassed, with shared
    layers (counted as often as they run) or attention. Biases, normalisation, pooling and activations count nothing.

    Args:
        model: a built model of one input.
        input_shape: the input's shape without the batch; by default the model's own.

    Raises:
        ValueError: where that shape, or one inside the model, is not known.

    >>> macs(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 3, padding="same")]))
    8640
    """
    shape = tuple(input_shape or model.input_shape[1:])
    if None in shape:
        raise ValueError(explain_mismatch("an input of known shape", f"{model.name!r} of {shape}", "give input_shape"))
    image = tf.TensorSpec((1, *shape), keras.backend.floatx())
    forward = tf.function(lambda x: model(x, training=False), autograph=False)
    return _macs_of(forward.get_concrete_function(image).graph)


def _macs_of(graph: tf.Graph) -> int:
    """The sum over a graph's operations, those of the functions that it calls among them."""
    total = 0
    for operation in graph.get_operations():
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            total += _macs_of(graph._get_function(operation.get_attr("f").name).graph)
        elif operation.type in COUNTS:
            count = COUNTS[operation.type](operation)
            if count is None:
                raise ValueError(explain_mismatch("maps of known size", f"{operation.name!r}", "give a fixed input_shape"))
            total += count
    return total


def _convolution(operation: Any) -> int | None:
    """Each value put out is a sum over the kernel's window and over the channels of its group."""
    return _product(operation.outputs[0].shape, operation.inputs[1].shape[:-1])


def _depthwise(operation: Any) -> int | None:
    return _product(operation.outputs[0].shape, operation.inputs[1].shape[:2])


def _transposed(operation: Any) -> int | None:
    """Each value read is spread over the kernel's window and over the channels put out."""
    return _product(operation.inputs[2].shape, operation.inputs[1].shape[:-1])


def _matrix_product(operation: Any) -> int | None:
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    return _product(operation.outputs[0].shape, operation.inputs[0].shape[-2 if transposed else -1 :][:1])


def _einsum(operation: Any) -> int | None:
    """The product of the sizes of all letters, each once."""
    operands, _ = operation.get_attr("equation").decode().split("->")
    sizes: dict[str, int | None] = {}
    for letters, tensor in zip(operands.split(","), operation.inputs):
        before, dots, after = letters.partition("...")
        shape = tensor.shape.as_list()
        sizes.update(zip(before, shape))
        sizes.update(zip(reversed(after), reversed(shape)))
        if dots:
            inner = shape[len(before) : len(shape) - len(after)]
            sizes.update({f"...{place}": size for place, size in enumerate(reversed(inner)) if size != 1})
    return _product(sizes.values())


def _product(*sizes: Any) -> int | None:
    every = [size for shape in sizes for size in shape]
    return None if None in every else math.prod(every)


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
