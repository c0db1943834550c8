"""A network for inference alone: BatchNorm folded into the layers before it, weights in the precision asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
from keras import layers

from kd_keras.contracts import mismatch, nearest
from kd_keras.taps import Edge, Graph, is_walkable

PRECISIONS = ("float32", "bfloat16", "float16")
FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)


@keras.saving.register_keras_serializable("kd_keras")
class Folded(layers.Layer):
    """What remains of a BatchNorm that was folded: the identity, called as that was."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return inputs

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


def frozen(network: keras.Model, precision: str = "float32") -> keras.Model:
    """A copy of a trained network that answers as it does in inference, in less time.

    A BatchNorm in inference is a scale s and an offset per channel, s (W x + b - mean) + beta with
    s = gamma / sqrt(variance + epsilon), which is one layer with the kernel s W and the bias s (b - mean) + beta. So
    it is folded into the convolution or Dense layer before it, where that feeds nothing else and is called once; what
    remains of it is the identity under its name, so that taps stay what they were. The folded layer is called
    `<name>_folded`: its output is no longer that of the layer `<name>`.

    In half precision the layers from the first kernel up to the classifier compute and keep their weights in it, with
    half the memory; the image's own preparation and the logits stay in float32. Every rounding is relative, of about
    0.4 % for bfloat16 and 0.05 % for float16, whose values end at 65504. Half precision needs a processor that
    computes in it (AVX512_BF16 or AMX among CPUs, tensor cores among GPUs): others are slower with it.

    The weights are those at the time of the call: the copy does not follow a network that is trained on.

    Args:
        network: a built Functional or Sequential model, nested or not; it is left as it is.
        precision: "float32", "bfloat16" or "float16".

    Returns:
        A model of the same inputs, outputs and layer names, not trainable.

    Raises:
        ValueError: for a model that is no graph of layers, or another precision.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    >>> [type(layer).__name__ for layer in frozen(network).layers]
    ['InputLayer', 'Conv2D', 'Folded']
    """
    if precision not in PRECISIONS:
        raise ValueError(mismatch(f"precision= one of {PRECISIONS}", repr(precision), nearest(precision, PRECISIONS)))
    if not is_walkable(network):
        remedy = "use the network as it is"
        raise ValueError(mismatch("a Functional or Sequential model to freeze", type(network).__name__, remedy))
    if any(getattr(layer, "quantization_mode", None) for layer in network._flatten_layers()):
        raise ValueError(mismatch("a network in floating point to freeze", f"{network.name!r}, quantised"))
    graph = Graph(network)
    norms = _foldable(graph)
    folded = {id(norm) for norm in norms.values()}
    exact = _exact(graph)
    copies: list[tuple[Any, Any]] = []

    def copied(layer: Any) -> Any:
        if not isinstance(layer, layers.Layer) or isinstance(layer, layers.InputLayer):
            return layer
        dtype = "float32" if id(layer) in exact else precision
        if id(layer) in folded:
            return Folded(name=layer.name, dtype=dtype)
        if isinstance(layer, layers.BatchNormalization) and precision != "float32":
            dtype = f"mixed_{precision}"  # its statistics may be out of the range of float16
        config = layer.get_config()
        config |= {"dtype": dtype} if "dtype" in config else {}
        if id(layer) in norms:
            config |= {"use_bias": True, "name": f"{layer.name}_folded"}
        copies.append((layer, type(layer).from_config(config)))
        return copies[-1][1]

    # Cloned through a model that is not compiled, for a compiled one would get an optimizer with all its variables.
    bare = keras.Model(network.input, network.output, name=network.name)
    copy = keras.models.clone_model(bare, clone_function=copied, recursive=True)
    for layer, its_copy in copies:
        its_copy.set_weights(_merged(layer, norms[id(layer)]) if id(layer) in norms else layer.get_weights())
    copy.trainable = False
    return copy


def _foldable(graph: Graph) -> dict[int, layers.BatchNormalization]:
    """By the identity of a layer with a kernel, the BatchNorm that can be folded into it."""
    calls = Counter(id(edge.original) for edge in graph.calls)
    readers = Counter(id(source) for edge in graph.calls for source in edge.sources)
    handed_on = [edge.results for edge in graph.edges if edge.operation is None]  # by nested models, under their names
    readers.update(id(tensor) for tensor in keras.tree.flatten([graph.output, handed_on]))

    def once(edge: Edge | None) -> bool:
        return edge is not None and calls[id(edge.original)] == 1

    found = {}
    for edge in graph.calls:
        maker = graph.maker(edge.sources[0]) if edge.sources else None
        if isinstance(edge.original, layers.BatchNormalization) and once(edge) and once(maker):
            linear, norm, rank = maker.original, edge.original, len(edge.sources[0].shape)
            channels = 1 if getattr(linear, "data_format", None) == "channels_first" else rank - 1
            if type(linear) in FOLDABLE and readers[id(edge.sources[0])] == 1 and norm.axis % rank == channels:
                found[id(linear)] = norm
    return found


def _exact(graph: Graph) -> set[int]:
    """The layers that stay in float32: those before the first kernel, and those from the classifier on."""
    learned = graph.learned()
    head = graph.classifier(required=False)
    after = set(map(id, head.results)) if head else set()
    found = {id(head.original)} if head else set()
    for edge in graph.calls:
        follows = any(id(source) in after for source in edge.sources)
        after.update(map(id, edge.results if follows else ()))
        if follows or not any(id(result) in learned for result in edge.results):
            found.add(id(edge.original))
    return found


def _merged(layer: Any, norm: layers.BatchNormalization) -> list[np.ndarray]:
    """The kernel and the bias that do what a layer and its BatchNorm did; computed in float64."""
    kernel, mean, variance = (np.array(x, "float64") for x in (layer.kernel, norm.moving_mean, norm.moving_variance))
    scale = (1.0 if norm.gamma is None else np.array(norm.gamma, "float64")) / np.sqrt(variance + norm.epsilon)
    offset = 0.0 if norm.beta is None else np.array(norm.beta, "float64")
    bias = 0.0 if layer.bias is None else np.array(layer.bias, "float64")
    shape = kernel.shape[-2:] if isinstance(layer, layers.DepthwiseConv2D) else kernel.shape[-1:]
    return [kernel * scale.reshape(shape), (bias - mean) * scale + offset]
