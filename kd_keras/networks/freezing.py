"""Copies of networks for inference: with BatchNorm folded into other layers, and in float32 or half precision."""

from __future__ import annotations

import copy
from typing import Any

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import check_choice, explain_mismatch
from kd_keras.networks.folding import find_foldings, merged_weights
from kd_keras.networks.graph import Operation, functional, is_walkable
from kd_keras.networks.stages import StagedGraph
from kd_keras.private_api import forget_calls, sub_layers

PRECISIONS = ("float32", "bfloat16", "float16")


@keras.saving.register_keras_serializable("kd_keras")
class Folded(layers.Layer):
    """The identity, which replaces a layer that was folded into its neighbor and accepts the arguments of its call."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.supports_masking = True

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        return inputs

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


def frozen(network: keras.Model, precision: str = "float32") -> keras.Model:
    """A copy of a trained network for inference, with the same predictions and less work.

    A BatchNorm is folded into the convolution or Dense layer before it, if that layer is called once and feeds nothing
    else. The identity replaces it under the BatchNorm's name, so that "stages" and other taps have the same values. The
    convolution or Dense layer is renamed to `<name>_folded`, because its output has changed.

    In float32 the normalization of the image is folded into the convolution or Dense layer after it, if that layer does
    not pad the image with zeros. An identity called `<name>_folded` replaces it.

    In half precision, the layers from the first kernel up to the classifier store their weights and compute in that
    precision, which halves their memory. The preprocessing of the image, the logits and other outputs, and layers that
    contain layers stay in float32. bfloat16 rounds by up to 0.4 %; float16 by up to 0.05 %, but only between 6e-5 and
    65504. Half precision is faster only on a processor that computes in it: CPUs with AVX512_BF16 or AMX, GPUs with
    tensor cores.

    The weights are those at the time of the call: the copy does not follow a network that continues to train.

    Args:
        network: a built Functional or Sequential model, nested or not; it is not changed.
        precision: "float32", "bfloat16" or "float16".

    Returns:
        A model of the same inputs and outputs, not compiled and not trainable.

    Raises:
        ValueError: if the model is not a graph of layers, not built, quantized or adapted by LoRA, if the configuration
            of a layer cannot recreate it, or if the precision is unknown.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    >>> [type(layer).__name__ for layer in frozen(network).layers]
    ['InputLayer', 'Conv2D', 'Folded']
    """
    check_choice("frozen", "precision", precision, PRECISIONS)
    check_walkable(network, "freeze")
    return _Copy(network, precision).model


def check_walkable(network: keras.Model, purpose: str) -> None:
    """Checks that a copy of a network can be made layer by layer.

    Args:
        network: any Keras model.
        purpose: what is done, a verb for the messages: "freeze", "quantize" or "copy".

    Raises:
        ValueError: if it is not a graph of layers, or if a layer is quantized or adapted by LoRA.
    """
    if not is_walkable(network):
        received = f"{network.name!r}, a subclassed model ({type(network).__name__})"
        advice = "use the network without freezing it" if purpose == "freeze" else "build it as a Functional model"
        raise ValueError(explain_mismatch(f"a Functional or Sequential model to {purpose}", received, advice))
    for layer in sub_layers(network):
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            received = f"the layer {layer.name!r}, which is quantized or adapted by LoRA"
            advice = f"{purpose} the network before it is quantized or adapted"
            raise ValueError(explain_mismatch(f"a network with plain weights to {purpose}", received, advice))


class _Copy:
    """A network's layers, recreated one by one."""

    def __init__(self, network: keras.Model, precision: str):
        graph = StagedGraph(network)
        self.precision = precision
        # In half precision a kernel that reads pixels up to 255 would round more than the network does.
        self.foldings = find_foldings(graph, preprocessing=precision == "float32")
        self.folded_norms = {id(norm) for norm in self.foldings.norms.values()}
        self.in_float32 = set() if precision == "float32" else _find_float32_layers(graph)
        self.copies: dict[int, Any] = {}  # by the id of the original, so that a shared layer stays shared
        self.weighted: list[tuple[layers.Layer, layers.Layer]] = []
        self.model = self._copy_model(network)
        for layer, duplicate in self.weighted:
            folded = self.foldings.absorbs(layer)
            duplicate.set_weights(merged_weights(layer, self.foldings) if folded else layer.get_weights())
            if isinstance(duplicate, layers.Normalization):
                duplicate.finalize_state()  # it computes with constants that it derives from its weights
        self.model.trainable = False

    def _copy_model(self, model: keras.Model) -> keras.Model:
        # From a compiled model, Keras would also clone the optimizer with all its variables.
        bare = keras.Model(functional(model).input, functional(model).output, name=model.name)
        return keras.models.clone_model(bare, clone_function=self._copy_once)

    def _copy_once(self, operation: Operation) -> Operation:
        if id(operation) not in self.copies:
            self.copies[id(operation)] = self._copy(operation)
        return self.copies[id(operation)]

    def _copy(self, operation: Operation) -> Operation:
        if isinstance(operation, keras.Model) and is_walkable(operation):
            return self._copy_model(operation)
        if not isinstance(operation, layers.Layer):
            duplicate = copy.copy(operation)  # an operation has no weights, but remembers in which graphs it was called
            forget_calls(duplicate)
            return duplicate
        dtype = "float32" if id(operation) in self.in_float32 else self.precision
        if id(operation) in self.folded_norms:
            return Folded(name=operation.name, dtype=dtype)
        if id(operation) in self.foldings.preprocessing:
            return Folded(name=f"{operation.name}_folded", dtype=dtype)
        duplicate = self._recreate(operation, dtype)
        self.weighted.append((operation, duplicate))
        return duplicate

    def _recreate(self, layer: layers.Layer, dtype: str) -> layers.Layer:
        """A new layer of the same configuration, in another dtype, and with a bias if it absorbs another layer."""
        config = layer.get_config()
        if isinstance(layer, layers.BatchNormalization) and dtype != "float32":
            dtype = f"mixed_{dtype}"  # its statistics may be out of the range of float16
        contains_layers = len(sub_layers(layer)) > 1
        if "dtype" in config and layer.compute_dtype in PRECISIONS and not contains_layers:
            config["dtype"] = dtype
        if self.foldings.absorbs(layer):
            config["use_bias"] = True
        if id(layer) in self.foldings.norms:
            config["name"] = f"{layer.name}_folded"
        try:
            return type(layer).from_config(config)
        except Exception as error:
            advice = "use the network without freezing it"
            expected = "layers that their configuration recreates, to freeze"
            raise ValueError(explain_mismatch(expected, f"{layer.name!r}: {error}", advice)) from error


def _find_float32_layers(graph: StagedGraph) -> set[int]:
    """The ids of the layers before the first kernel, from the classifier on, and of those that return an output."""
    learned = graph.learned()
    head = graph.find_classifier()
    after = set(map(id, head.results)) if head else set()
    in_float32: set[int] = set()
    for edge in filter(None, [head, *(graph.producer(output) for output in keras.tree.flatten(graph.output))]):
        before = graph.producer(edge.sources[0])  # a layer from which its fused activation was split off
        in_float32.add(id((before if before and before.path == f"{edge.path}:linear" else edge).original))
    for edge in graph.calls:
        follows = any(id(source) in after for source in edge.sources)
        after.update(map(id, edge.results if follows else ()))
        if follows or not any(id(result) in learned for result in edge.results):
            in_float32.add(id(edge.original))
    return in_float32
