"""The operations of a network, called again one by one with rounding between them."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, tree

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch, shorten, suggest
from kd_keras.networks.fake_quantization import FakeQuantize
from kd_keras.networks.folding import find_foldings, merged_weights
from kd_keras.networks.freezing import Folded
from kd_keras.networks.graph import Edge, Graph, Operation
from kd_keras.networks.quantization_rules import (
    FIXED_RANGES,
    Scale,
    is_channels_first,
    is_split,
    kind_of,
    numbers_of,
    scale_of,
)
from kd_keras.networks.quantized_layers import (
    ChannelScale,
    HardSigmoid,
    QuantizedConv2D,
    QuantizedDense,
    QuantizedDepthwiseConv2D,
    Rescaled,
)
from kd_keras.private_api import forget_calls, nodes_in_order, sub_layers

# By the status of a tensor, the kinds of readers that let it stay unrounded: they round later or need no rounding.
LATER = {
    "fusable": {"relu", "relu6", "join", "same"},
    "pending": {"same"},
    "float": {"relu", "relu6", "same", "float", "softmax", "output"},
}
FUSABLE = ("kernel", "scale", "sum")  # whose kernels of LiteRT contain a ReLU
WIDER = 1 + 1 / 64  # the range of a normalized image, compared with that of its pixels
QUANTIZED_CLASSES = {
    layers.Conv2D: QuantizedConv2D,
    layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
    layers.Dense: QuantizedDense,
}


class Value(NamedTuple):
    """A tensor of the copy.

    Attributes:
        tensor: the tensor.
        status: "quantized", "float", "pending" before it is rounded, or "fusable" if that can wait for a ReLU.
        quantizer: of a quantized tensor, the layer with its range.
    """

    tensor: Tensor
    status: str
    quantizer: FakeQuantize | None = None


class QuantizedCopy:
    """A network's operations, called again with rounding between them.

    Args:
        network: the network.
        keep_float: the names of the convolutions and dense layers that stay in float.
        by_gradient: whether ranges are learned by their gradient.
        kernel_bits: of the kernels, 8 or 4.

    Attributes:
        graph: the replayed network.
        observed: after `build`, the learned ranges and the tensors that they start from.
    """

    def __init__(self, network: keras.Model, keep_float: Sequence[str], by_gradient: bool, kernel_bits: int):
        self.network, self.by_gradient, self.kernel_bits = network, by_gradient, kernel_bits
        self.graph = Graph(network)
        self.foldings = find_foldings(self.graph, preprocessing=False)
        self.norms = {id(norm) for norm in self.foldings.norms.values()}
        self.kept = self._find_kept(keep_float)
        self.observed: list[tuple[FakeQuantize, Tensor]] = []  # learned ranges, and the tensors that they start from
        self.copies: dict[int, Operation] = {}
        self.weights: list[tuple[layers.Layer, list[np.ndarray]]] = []
        self.names: set[str] = set()
        self.values: dict[int, Value] = {}
        self.scales: dict[int, Scale] = {}  # by the id of the result
        self.of_pixels: set[FakeQuantize | None] = set()  # the quantizers of the image and of its normalized forms

    def build(self) -> keras.Model:
        inputs, output = tree.flatten(self.graph.inputs), self.graph.output
        nodes = [node for node in nodes_in_order(keras.Model(inputs, output)) if not node.is_input]
        edges = [edge for node in nodes if (edge := self.graph.producer(node.outputs[0])) is not None]
        self.kinds = [self._kind(edge, node) for edge, node in zip(edges, nodes, strict=True)]
        self.readers: dict[int, set[str]] = defaultdict(set)
        for edge, kind in zip(edges, self.kinds, strict=True):
            for source in edge.sources:
                self.readers[id(source)].add("float" if id(edge.original) in self.kept else kind)
        for tensor in tree.flatten(output):
            self.readers[id(tensor)].add("output")
        image = keras.Input(batch_shape=inputs[0].shape, name=inputs[0].name)
        self.values[id(inputs[0])] = self._quantized(Value(image, "pending"), "image", (0.0, 255.0))
        self.of_pixels = {self.values[id(inputs[0])].quantizer}
        for edge, node, kind in zip(edges, nodes, self.kinds, strict=True):
            self._emit(edge, node, kind)
        outputs = tree.map_structure(lambda tensor: self.values[id(tensor)].tensor, output)
        model = keras.Model(image, outputs, name=self.network.name)
        for layer, weights in self.weights:
            layer.set_weights(weights)
            if isinstance(layer, layers.Normalization):
                layer.finalize_state()
        return model

    def _kind(self, edge: Edge, node: Any) -> str:
        if is_channels_first(edge.original):
            received = f"the layer {edge.path!r} with data_format='channels_first'"
            raise ValueError(explain_mismatch("a network with channels last to quantize", received))
        scale = scale_of(edge, numbers_of(node))
        if scale is not None:
            self.scales[id(edge.results[0])] = scale
        return "same" if id(edge.original) in self.norms else kind_of(edge, numbers_of(node))

    def _emit(self, edge: Edge, node: Any, kind: str) -> None:
        """Calls one operation on the values of its sources, and rounds its results unless they are rounded later."""
        sources = [self.values[id(source)] for source in edge.sources]
        readers = [self.readers[id(result)] for result in edge.results]
        name = edge.path.replace("/", "_").replace(":linear", "_linear")
        if kind in FIXED_RANGES and readers[0] <= {"output"}:
            kind = "float"
        if kind == "join":
            sources = [self._kept_apart(*pair, name) for pair in zip(edge.sources, sources, strict=True)]
        tensors = self._call(edge, node, kind, name, sources)
        for result, tensor, read_by in zip(edge.results, tensors, readers, strict=True):
            value = self._result(edge, kind, tensor, sources)
            if kind in ("pool", "relu") and value.quantizer:
                value = value._replace(tensor=value.quantizer(tensor, learn=False))
            if value.status in LATER and not read_by <= LATER[value.status]:
                pixels = sources[0].quantizer if kind == "scale" else None
                is_image = pixels is not None and pixels in self.of_pixels
                fixed = self._pixel_range(edge, pixels) if is_image and pixels else FIXED_RANGES.get(kind)
                value = self._quantized(value, name, fixed)
                self.of_pixels |= {value.quantizer} if is_image else set()
            self.values[id(result)] = value

    def _result(self, edge: Edge, kind: str, tensor: Tensor, sources: list[Value]) -> Value:
        """The status of a result before it is rounded."""
        source = sources[0]
        has_same_range = kind in ("same", "select", "relu") or (kind == "pool" and source.quantizer)
        if has_same_range or (kind == "relu6" and source.status != "quantized"):
            return source._replace(tensor=tensor)
        is_float = kind in ("float", "softmax", "pool") or id(edge.original) in self.kept
        if is_float:
            return Value(tensor, "float")
        is_joined = getattr(edge.original, "groups", 1) > 1  # LiteRT joins the groups before a ReLU
        return Value(tensor, "fusable" if kind in FUSABLE and not is_joined else "pending")

    def _call(self, edge: Edge, node: Any, kind: str, name: str, sources: list[Value]) -> list[Tensor]:
        first = sources[0].tensor
        if kind == "scale":
            return [self._scale(edge, name)(first)]
        if kind == "silu":  # of two kernels of LiteRT
            sigmoid = layers.Activation("sigmoid", name=self._unique(f"{name}_sigmoid"))(first)
            gate = self._quantized(Value(sigmoid, "pending"), f"{name}_sigmoid", FIXED_RANGES["sigmoid"])
            return [layers.Multiply(name=self._unique(name))([first, gate.tensor])]
        values = {id(source): value.tensor for source, value in zip(edge.sources, sources, strict=True)}
        args, kwargs = node.arguments.fill_in(values)
        if kind == "hard_sigmoid":
            return [HardSigmoid(name=self._unique(name))(first)]
        return tree.flatten(self._copy(edge, kind, name)(*args, **kwargs))

    def _quantized(self, value: Value, name: str, fixed: tuple[float, float] | None) -> Value:
        low, high = fixed or (None, None)
        options = {"name": self._unique(f"{name}_quantize"), "dtype": "float32"}
        quantizer = FakeQuantize(low, high, by_gradient=self.by_gradient and fixed is None, **options)
        if fixed is None:
            self.observed.append((quantizer, value.tensor))
        return Value(quantizer(value.tensor), "quantized", quantizer)

    def _kept_apart(self, source: Tensor, value: Value, name: str) -> Value:
        """A part of a split tensor as a concatenation reads it, so that the other parts keep their scale in LiteRT."""
        producer = self.graph.producer(source)
        if value.quantizer is None or producer is None or len(producer.results) == 1:
            return value
        return value._replace(tensor=Rescaled(name=self._unique(f"{name}_rescaled"))(value.tensor))

    def _pixel_range(self, edge: Edge, pixels: FakeQuantize) -> tuple[float, float]:
        """The fixed range of an image after its normalization."""
        scale = self.scales[id(edge.results[0])]
        ends = [scale.scale * end + scale.offset for end in pixels.range]
        # A normalization to -2..2 puts every pixel in the middle between two of 256 values, where rounding is not
        # defined. In a wider range the steps are not those of the pixels.
        return min(0.0, float(np.min(ends)) * WIDER), float(np.max(ends)) * WIDER

    def _scale(self, edge: Edge, name: str) -> layers.Layer:
        if id(edge.original) not in self.copies:
            scale = self.scales[id(edge.results[0])]
            layer = ChannelScale(name=self._unique(name), dtype="float32", trainable=scale.is_learned)
            self.copies[id(edge.original)] = layer
            self.weights.append((layer, [scale.scale, scale.offset]))
        return self.copies[id(edge.original)]

    def _copy(self, edge: Edge, kind: str, name: str) -> Operation:
        """The operation of the copy, one for each of the network, so that a shared layer stays shared."""
        operation = edge.original
        if id(operation) not in self.copies:
            self.copies[id(operation)] = self._make(edge, kind, name)
        return self.copies[id(operation)]

    def _make(self, edge: Edge, kind: str, name: str) -> Operation:
        operation = edge.original
        if id(operation) in self.norms:
            return Folded(name=self._unique(name), dtype="float32")
        if not isinstance(operation, layers.Layer):
            duplicate = copy.copy(operation)
            forget_calls(duplicate)
            return duplicate
        config = operation.get_config()
        if "dtype" in config and len(sub_layers(operation)) == 1:
            config["dtype"] = "float32"
        absorbs = self.foldings.absorbs(operation)
        config["name"] = self._unique(f"{name}_folded" if absorbs else name)
        if type(operation) is layers.Activation:  # its function need not be registered
            return layers.Activation(operation.activation, name=config["name"], dtype="float32")
        if is_split(edge):
            config["activation"] = "linear"
        kind_of_layer = type(operation)
        if kind == "kernel":
            config |= {"use_bias": True} if absorbs else {}
            if id(operation) not in self.kept:
                base, kind_of_layer = next(pair for pair in QUANTIZED_CLASSES.items() if isinstance(operation, pair[0]))
                known = {*inspect.signature(base).parameters, "name", "trainable", "dtype"}
                config = {key: value for key, value in config.items() if key in known}  # not those of a subclass
                config |= {"bits": self.kernel_bits, "float_path": edge.path.removesuffix(":linear")}
        try:
            layer = kind_of_layer.from_config(config)
        except Exception as error:
            received = f"{edge.path!r} ({type(operation).__name__}): {shorten(str(error))}"
            advice = "replace it by layers of Keras, or register its class"
            raise ValueError(
                explain_mismatch("layers that their configuration recreates, to quantize", received, advice)
            ) from error
        if operation.weights:
            weights = merged_weights(operation, self.foldings) if absorbs else operation.get_weights()
            self.weights.append((layer, weights))
        return layer

    def _unique(self, name: str) -> str:
        number, unique = 1, name
        while unique in self.names:
            number, unique = number + 1, f"{name}_{number}"
        self.names.add(unique)
        return unique

    def _find_kept(self, names: Sequence[str]) -> set[int]:
        kernels = {edge.path.removesuffix(":linear"): edge for edge in self.graph.calls if kind_of(edge) == "kernel"}
        kept: set[int] = set()
        for name in [names] if isinstance(names, str) else names:
            matching = [
                edge
                for path, edge in kernels.items()
                if name in (path, path.replace("/", "_"), path.rsplit("/", 1)[-1])
            ]
            if not matching:
                expected = f"keep_float= names of convolutions or dense layers of {self.network.name!r}"
                raise ValueError(explain_mismatch(expected, repr(name), suggest(name, list(kernels))))
            kept.update(id(edge.original) for edge in matching)
        return kept
