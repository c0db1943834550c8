"""A network for inference alone: BatchNorm folded into the layers before it, weights in the precision asked for."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import keras
import numpy as np
from keras import layers

from kd_keras.errors import explain_mismatch, suggest
from kd_keras.networks.taps import Edge, Graph, functional, is_walkable

PRECISIONS = ("float32", "bfloat16", "float16")
FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)


@keras.saving.register_keras_serializable("kd_keras")
class Folded(layers.Layer):
    """What remains of a BatchNorm that was folded: the identity, called as that was."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.supports_masking = True

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return inputs

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


def frozen(network: keras.Model, precision: str = "float32") -> keras.Model:
    """A copy of a trained network for inference, with the same answers and less work.

    A BatchNorm in inference is a scale s and an offset per channel, s (W x + b - mean) + beta with
    s = gamma / sqrt(variance + epsilon), which is one layer with the kernel s W and the bias s (b - mean) + beta. So
    it is folded into the convolution or Dense layer before it, where that is called once and feeds nothing else. What
    remains is the identity under the BatchNorm's name, so that "stages" and the like are what they were; the folded
    layer is called `<name>_folded`, for its output is another than that of the layer `<name>`.

    In half precision the layers from the first kernel up to the classifier keep their weights and compute in it: half
    the memory. The preparation of the image, the logits and other outputs, and layers made of layers stay in float32.
    bfloat16 rounds by up to 0.4 %; float16 by up to 0.05 %, but only between 6e-5 and 65504. It is faster only on a
    processor that computes in it: AVX512_BF16 or AMX among CPUs, tensor cores among GPUs.

    The weights are those at the time of the call: the copy does not follow a network that is trained on.

    Args:
        network: a built Functional or Sequential model, nested or not; it is left as it is.
        precision: "float32", "bfloat16" or "float16".

    Returns:
        A model of the same inputs and outputs, not compiled and not trainable.

    Raises:
        ValueError: for a model that is no graph of layers, not built, or quantised or adapted by LoRA; for a layer that
            its own configuration cannot make again; for another precision.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    >>> [type(layer).__name__ for layer in frozen(network).layers]
    ['InputLayer', 'Conv2D', 'Folded']
    """
    if precision not in PRECISIONS:
        raise ValueError(explain_mismatch(f"precision= one of {PRECISIONS}", repr(precision), suggest(precision, PRECISIONS)))
    if not is_walkable(network):
        remedy = "use the network as it is"
        raise ValueError(explain_mismatch("a Functional or Sequential model to freeze", type(network).__name__, remedy))
    for layer in network._flatten_layers():
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            raise ValueError(explain_mismatch("a network with plain weights to freeze", f"{layer.name!r}, quantised or LoRA"))
    return _Copy(network, precision).model


class _Copy:
    """A network's layers, made again one by one."""

    def __init__(self, network: keras.Model, precision: str):
        graph = Graph(network)
        self.precision = precision
        self.norms = _foldable(graph)
        self.folded = {id(norm) for norm in self.norms.values()}
        self.exact = set() if precision == "float32" else _exact(graph)
        self.copies: dict[int, Any] = {}  # by the identity of what is copied, so that what is shared stays shared
        self.weighted: list[tuple[layers.Layer, layers.Layer]] = []
        self.model = self._model(network)
        for layer, its_copy in self.weighted:
            norm = self.norms.get(id(layer))
            its_copy.set_weights(_merged(layer, norm) if norm else layer.get_weights())
            if isinstance(its_copy, layers.Normalization):
                its_copy.finalize_state()  # it computes with constants made of its weights
        self.model.trainable = False

    def _model(self, model: keras.Model) -> keras.Model:
        # Cloned through a model that is not compiled: for another one Keras makes an optimizer with all its variables.
        bare = keras.Model(functional(model).input, functional(model).output, name=model.name)
        return keras.models.clone_model(bare, clone_function=self._operation)

    def _operation(self, operation: Any) -> Any:
        if id(operation) not in self.copies:
            self.copies[id(operation)] = self._copy(operation)
        return self.copies[id(operation)]

    def _copy(self, operation: Any) -> Any:
        if isinstance(operation, keras.Model) and is_walkable(operation):
            return self._model(operation)
        if not isinstance(operation, layers.Layer):
            apart = copy.copy(operation)  # an operation has no weights, but remembers the graphs that it is in
            apart._inbound_nodes, apart._outbound_nodes = [], []
            return apart
        config = operation.get_config()
        dtype = "float32" if id(operation) in self.exact else self.precision
        if id(operation) in self.folded:
            return Folded(name=operation.name, dtype=dtype)
        if isinstance(operation, layers.BatchNormalization) and dtype != "float32":
            dtype = f"mixed_{dtype}"  # its statistics may be out of the range of float16
        made_of_layers = len(list(operation._flatten_layers())) > 1
        if "dtype" in config and operation.compute_dtype in PRECISIONS and not made_of_layers:
            config["dtype"] = dtype
        if id(operation) in self.norms:
            config |= {"use_bias": True, "name": f"{operation.name}_folded"}
        try:
            made = type(operation).from_config(config)
        except Exception as error:
            needed = "layers that their configuration makes again, to freeze"
            raise ValueError(explain_mismatch(needed, f"{operation.name!r}: {error}", "use the network as it is")) from error
        self.weighted.append((operation, made))
        return made


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
        if type(edge.original) is layers.BatchNormalization and once(edge) and once(maker):
            linear, norm, rank = maker.original, edge.original, len(edge.sources[0].shape)
            channels = 1 if getattr(linear, "data_format", None) == "channels_first" else rank - 1
            plain = type(linear) in FOLDABLE and linear.activation is keras.activations.linear
            if plain and readers[id(edge.sources[0])] == 1 and norm.axis % rank == channels:
                found[id(linear)] = norm
    return found


def _exact(graph: Graph) -> set[int]:
    """The layers that stay in float32: those before the first kernel, those from the classifier on, and those that make
    an output."""
    learned = graph.learned()
    head = graph.classifier(required=False)
    after = set(map(id, head.results)) if head else set()
    found = set()
    for edge in filter(None, [head, *(graph.maker(output) for output in keras.tree.flatten(graph.output))]):
        before = graph.maker(edge.sources[0])  # where an activation is a part of its layer, that layer
        found.add(id((before if before and before.path == f"{edge.path}:linear" else edge).original))
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
