"""How much of each layer's output is lost by int8: the signal-to-noise ratio of a quantization-aware network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.networks.fake_quantization import FakeQuantize
from kd_keras.networks.quantized_layers import QuantizedKernel, is_quantization_aware, unquantized
from kd_keras.private_api import nodes_in_order

FINDING = "int8_"  # how the findings of `int8_layers` begin


class LayerNoise(NamedTuple):
    """The noise of one rounded tensor.

    Attributes:
        layer: the path of the convolution or dense layer whose result is rounded, after its BatchNorm and ReLU; or the
            name of another operation, such as a sum.
        low, high: its range in int8.
        decibels: its signal-to-noise ratio; infinite if nothing is lost.
    """

    layer: str
    low: float
    high: float
    decibels: float


def layer_noise(model: keras.Model, images: np.ndarray, batch_size: int = 32) -> list[LayerNoise]:
    """The signal-to-noise ratio of each rounded tensor, `10 log10(sum x^2 / sum (x - y)^2)`, in order of computation.

    x are the values if nothing is rounded, and y those if kernels and activations of all layers up to this one are. A
    convolution or dense layer at which the ratio falls sharply is one to pass as `keep_float=` to
    `kd_keras.quantization_aware`.

    Args:
        model: a quantization-aware model.
        images: `(N, H, W, C)` uint8 images, about a hundred.
        batch_size: the number of images that are computed together.

    Raises:
        ValueError: if the model is not quantization-aware.

    >>> from kd_keras.networks.quantization import quantization_aware
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2, name="out")])
    >>> pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype("uint8")
    >>> [row.layer for row in layer_noise(quantization_aware(network, pixels), pixels)]
    ['image', 'out']
    """
    if not is_quantization_aware(model):
        advice = "make it with kd_keras.quantization_aware"
        raise ValueError(explain_mismatch("a quantization-aware model", f"{model.name!r}, a float model", advice))
    outputs: dict[FakeQuantize, Tensor] = {}
    names: dict[FakeQuantize, str] = {}
    producers: dict[int, Any] = {}
    for node in nodes_in_order(model):
        producers |= {id(tensor): node for tensor in node.outputs}
        quantizer = node.operation
        if isinstance(quantizer, FakeQuantize) and quantizer not in outputs:  # a pooling rounds in the same range again
            outputs[quantizer] = node.outputs[0]
            name = _rounded_kernel(node, producers) or quantizer.name.removesuffix("_quantize")
            # An activation with a range of its own, such as a hard sigmoid, has the name of the layer that has it.
            names[quantizer] = f"{name}_activation" if name in names.values() else name
    rounded = keras.Model(model.inputs[0], list(outputs.values()))
    signal, noise = np.zeros(len(outputs)), np.zeros(len(outputs))
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size], "float32")
        values = keras.tree.flatten(rounded(batch, training=False))
        with unquantized(model):
            exact = keras.tree.flatten(rounded(batch, training=False))
        for number, (x, y) in enumerate(zip(exact, values, strict=True)):
            x, y = (np.asarray(keras.ops.convert_to_numpy(tensor), "float64") for tensor in (x, y))
            signal[number] += np.square(x).sum()
            noise[number] += np.square(x - y).sum()
    return [
        LayerNoise(names[layer], layer.range[0], layer.range[1], _decibels(*powers))
        for layer, powers in zip(outputs, zip(signal, noise, strict=True), strict=True)
    ]


def _rounded_kernel(node: Any, producers: dict[int, Any]) -> str:
    """The path of the layer with a kernel whose result a call rounds; "" if it rounds something else."""
    while len(sources := node.arguments.keras_tensors) == 1 and id(sources[0]) in producers:
        node = producers[id(sources[0])]
        if isinstance(node.operation, QuantizedKernel):
            return node.operation.float_path
        if isinstance(node.operation, FakeQuantize):
            return ""
    return ""


def int8_layers(model: keras.Model, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields for each rounded tensor the finding `int8_<layer>`: its ratio in decibels and the ends of its range.

    Tensors in which nothing is lost, such as the image, are left out.

    Args:
        model, images: as `layer_noise` takes them.

    Raises:
        ValueError: as `layer_noise`.

    >>> from kd_keras.networks.quantization import quantization_aware
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2, name="out")])
    >>> pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype("uint8")
    >>> [(name, finding.shape) for name, finding in int8_layers(quantization_aware(network, pixels), pixels)]
    [('int8_out', (3,))]
    """
    for row in layer_noise(model, images):
        if row.decibels != float("inf"):
            yield f"{FINDING}{row.layer}", np.array([row.decibels, row.low, row.high])


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")


def layer_noise_table(rows: Sequence[LayerNoise]) -> str:
    """The rows of `layer_noise` as a Markdown table.

    >>> print(layer_noise_table([LayerNoise("logits", -4.0, 6.5, 31.25)]))
    | layer | low | high | signal-to-noise ratio (dB) |
    |---|---:|---:|---:|
    | logits | -4 | 6.5 | 31.2 |
    """
    head = ["| layer | low | high | signal-to-noise ratio (dB) |", "|---|---:|---:|---:|"]
    return "\n".join(head + [f"| {row.layer} | {row.low:.4g} | {row.high:.4g} | {row.decibels:.1f} |" for row in rows])
