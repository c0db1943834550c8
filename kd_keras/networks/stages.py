"""The parts of a network that methods read: its logits, its classifier, its embedding and its stages.

* The logits are what comes before a final softmax or sigmoid.
* The classifier is the last layer with a kernel on the way to the logits.
* The embedding is what the classifier reads, before dropout, averaged over height and width; of a network without a
  classifier, its output.
* The stages are the maps that the network declares: the outputs of its layers `stage1_out`, `stage2_out`, ..., or of a
  network with a pyramid, on whose levels its heads stand, those of `pyramid_p2`, `pyramid_p3`, ... Of a network without
  layers of these names, they are the last maps of each resolution that every path from input to logits passes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, tree

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch, shorten
from kd_keras.networks.features import has_kernel, is_pooling, returns_features
from kd_keras.networks.graph import Edge, Graph, Operation
from kd_keras.networks.heads import Head, find_head
from kd_keras.networks.layouts import find_channels_first

ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax)
ACTIVATION_NAMES = {name.replace("_", "") for name in dir(keras.activations) if name.islower()}
PADDINGS = (layers.ZeroPadding2D, layers.Cropping2D)
# The names of the layers with which a network declares its stages.
STAGE, STEM, PYRAMID = r"stage(\d+)_out", r"stem_out()", r"pyramid_p(\d+)"
DROPOUTS = (layers.Dropout, layers.SpatialDropout2D, layers.GaussianDropout, layers.GaussianNoise)


class StagedGraph(Graph):
    """A model's replayed graph, in which logits, classifier, embedding and stages can be found.

    >>> maps = [layers.Conv2D(4, 3, name="one"), layers.Conv2D(4, 3, strides=2, name="two")]
    >>> head = [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(5, name="classify")]
    >>> graph = StagedGraph(keras.Sequential([keras.Input((9, 9, 3)), *maps, *head]))
    >>> [graph.spec(stage).layer for stage in graph.stages()], graph.spec(graph.embedding()).layer
    (['one', 'two'], 'pool')
    """

    _channels_first: set[int] | None = None  # the ids of tensors, found when they are first needed

    def logits(self, output: Tensor | None = None) -> Tensor:
        """What comes before a final softmax or sigmoid, in the shape of the output, `(B, K)`.

        Args:
            output: one of several outputs; by default the output of the model, or that called "logits".

        Raises:
            ValueError: if the model has several outputs and none is called "logits", or if the softmax or sigmoid
                cannot be taken off.
        """
        head = self.head(output)
        if head.problem:
            raise self.missing_tap("logits", head.problem)
        logits = head.logits
        for edge in head.rearranging:
            rearranged = self.derive(logits, edge.operation, edge.path)
            logits = rearranged if len(rearranged.shape) > 1 else logits  # a single unit keeps its axis
        return logits

    def head(self, output: Tensor | None = None) -> Head:
        """The logits and the activation behind an output, as `logits`.

        Raises:
            ValueError: if the model has several outputs and none is called "logits".
        """
        if output is not None:
            return find_head(self, output)
        output = self.output
        if isinstance(output, Mapping):
            output = next(iter(output.values())) if len(output) == 1 else output.get("logits")
        if output is None or tree.is_nested(output):
            raise self.missing_tap("logits", 'it has several outputs. Return a dictionary with the key "logits"')
        return find_head(self, output)

    def embedding(self) -> Tensor:
        """What the classifier reads, `(B, D)`, before dropout and averaged over height and width.

        Of a network without a classifier, such as a backbone, it is the network's output.

        Raises:
            ValueError: if no single layer computes the logits, or if a network without a classifier returns tokens.
        """
        if self._returns_features():
            tensor = self.logits()
            if len(tensor.shape) == 3:
                advice = "it returns tokens, without a classifier that reads a vector. Add GlobalAveragePooling1D() "
                raise self.missing_tap("embedding", f"{advice}or [:, 0] of a class token, or pass the path of a layer")
        else:
            tensor = self.classifier().sources[0]
        while (edge := self.producer(tensor)) and isinstance(edge.operation, DROPOUTS):
            tensor = edge.sources[0]
        if len(tensor.shape) != 4:
            return tensor
        axes = (2, 3) if self.is_channels_first(tensor) else (1, 2)
        return self.derive(tensor, lambda maps: keras.ops.mean(maps, axis=axes), "mean")

    def embedding_map(self) -> Tensor:
        """The map `(B, H, W, C)` that is pooled to the embedding.

        Raises:
            ValueError: if no map is pooled to it.
        """
        tensor = self.logits() if self._returns_features() else self.classifier().sources[0]
        while (edge := self.producer(tensor)) and (is_pooling(edge.operation) or isinstance(edge.operation, DROPOUTS)):
            tensor = edge.sources[0]
        if len(tensor.shape) != 4:
            advice = f"its embedding, {self.spec(tensor).layer!r}, is not pooled from a map. Pass the path of a layer"
            raise self.missing_tap("embedding:map", advice)
        return tensor

    def stages(self) -> list[Tensor]:
        """The maps `(B, H, W, C)` of the stages that the network declares, in their order.

        Of a network that declares none, the last map of each resolution that every path to the logits passes, largest
        first.

        Raises:
            ValueError: if there is none, or the size of one is unknown.
        """
        return self._declared_stages() or self._last_maps()

    def stem(self) -> list[Tensor]:
        """The map before the first stage in a list, the output of the layer `stem_out`; empty if there is none."""
        has_stages = self._declared_stages() and not self._named_outputs(PYRAMID)
        return [edge.results[0] for edge in self._named_outputs(STEM).values()] if has_stages else []

    def _declared_stages(self) -> list[Tensor]:
        """The maps of the layers `stage1_out`, `stage2_out`, ..., or of a pyramid; empty if a number is missing."""
        levels = self._named_outputs(PYRAMID)
        edges, first = (levels, min(levels)) if levels else (self._named_outputs(STAGE), 1)
        numbers = sorted(edges)
        if numbers != list(range(first, first + len(numbers))):
            return []
        maps = [edges[number].results[0] for number in numbers]
        return maps if all(len(tensor.shape) == 4 for tensor in maps) else []

    def _named_outputs(self, pattern: str) -> dict[int, Edge]:
        """The calls of layers with a name, by the number in it; empty if two of nested models have the same."""
        matches = [
            (match, edge) for edge in self.edges if (match := re.fullmatch(pattern, edge.path.rsplit("/", 1)[-1]))
        ]
        edges = {int(match[1] or 0): edge for match, edge in matches}
        return edges if len(edges) == len(matches) else {}

    def _last_maps(self) -> list[Tensor]:
        """The last map of each resolution that every path to the logits passes, largest first."""
        stages: dict[tuple, Tensor] = {}
        learned = self.learned()
        classifier = self.find_classifier()
        for tensor in self._dominators():
            edge = self.producer(tensor)
            if edge is None or id(tensor) not in learned or isinstance(edge.operation, PADDINGS):
                continue
            size = tuple(tensor.shape[2:4] if self.is_channels_first(tensor) else tensor.shape[1:3])
            if (
                _is_rearranging(edge.operation) and len(edge.sources[0].shape) == 4 and size not in stages
            ):  # for example inside a channel shuffle
                continue
            if edge is classifier or is_pooling(edge.operation):
                break
            if len(tensor.shape) == 4:
                stages[size] = tensor
        if not stages:
            raise self.missing_tap("stages", "no map is on every path from input to logits. Pass the paths of layers")
        if any(None in size for size in stages):
            raise self.missing_tap("stages", "the size of its maps is unknown. Build it with a fixed input_shape")
        return list(stages.values())

    def learned(self) -> set[int]:
        """The ids of the tensors that depend on a layer with a kernel; all others are forms of the input image."""
        learned: set[int] = set()
        for edge in self.calls:
            if has_kernel(edge.operation) or any(id(source) in learned for source in edge.sources):
                learned.update(map(id, edge.results))
        return learned

    def is_channels_first(self, tensor: Tensor) -> bool:
        """Whether axis 1 of a tensor is its channels, as in maps `(B, C, H, W)`."""
        if self._channels_first is None:
            self._channels_first = find_channels_first(self.calls)
        return id(tensor) in self._channels_first

    def channels_last(self, tensor: Tensor) -> Tensor:
        """A tensor of the graph with its channels at the end."""
        if not self.is_channels_first(tensor):
            return tensor
        return self.derive(tensor, lambda maps: keras.ops.moveaxis(maps, 1, -1), "channels_last")

    def before_activation(self, tensor: Tensor) -> Tensor:
        """A map before its activation.

        It is the input of the activation whose output the tensor is; of a concatenation, that of its parts, joined
        without a channel shuffle after it; of a map that a BatchNorm and an activation follow, as in networks that
        activate before the convolution, the output of that BatchNorm; else the tensor itself.
        """
        edge = self.producer(tensor)
        if edge and _is_activation(edge.operation):
            return edge.sources[0]
        if (joined := self._joined_before_activation(edge)) is not None:
            return joined
        norms = [call for call in self.calls if _is_batch_norm(call) and call.sources[0] is tensor]
        for norm in norms:
            if any(_is_activation(call.operation) and call.sources[0] is norm.results[0] for call in self.calls):
                return norm.results[0]
        return tensor

    def _joined_before_activation(self, edge: Edge | None) -> Tensor | None:
        """A concatenation of maps before their activations, or `None` if none of them has one."""
        while edge and len(edge.sources) == 1 and _is_rearranging(edge.operation):
            edge = self.producer(edge.sources[0])
        if not (edge and isinstance(edge.operation, layers.Concatenate)):
            return None
        producers = [self.producer(source) for source in edge.sources]
        activated = [producer is not None and _is_activation(producer.operation) for producer in producers]
        if not any(activated):
            return None
        parts = [
            producer.sources[0] if is_active and producer else source
            for source, producer, is_active in zip(edge.sources, producers, activated, strict=True)
        ]
        axis = edge.operation.axis
        joined = self.derive(edge.results[0], lambda _: keras.ops.concatenate(parts, axis=axis), "pre")
        if self.is_channels_first(edge.results[0]):
            self._channels_first = {*(self._channels_first or ()), id(joined)}
        return joined

    def find_classifier(self) -> Edge | None:
        """The last layer with a kernel on the way to the logits, or `None` if there is none or several."""
        sinks = self._sinks()
        if len(sinks) > 1 or self._returns_features():
            return None
        edge = self.producer(sinks[0])
        while edge is not None and not has_kernel(edge.operation):
            edge = self.producer(edge.sources[0]) if len(edge.sources) == 1 else None
        return edge

    def _returns_features(self) -> bool:
        if isinstance(self.output, Mapping) and "logits" in self.output:
            return False
        sinks = self._sinks()
        return len(sinks) == 1 and returns_features(self, sinks[0])

    def classifier(self) -> Edge:
        """The last layer with a kernel on the way to the logits.

        Raises:
            ValueError: if there is none.
        """
        edge = self.find_classifier()
        if edge is None:
            raise self.missing_tap("embedding", "no single layer computes its logits. Pass the path of a layer instead")
        return edge

    def classifier_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The kernel `(D, K)` and the bias `(K,)` of the classifier, float32.

        Raises:
            ValueError: if the classifier is not linear.
        """
        edge = self.classifier()
        layer = edge.original
        if getattr(layer, "quantization_mode", None) is not None:
            received = f"the layer {edge.path!r}, quantized to {layer.quantization_mode}"
            advice = "use the network as it was before quantize()"
            raise ValueError(explain_mismatch(f"a classifier of {self.model.name!r} in floats", received, advice))
        kernel = np.array(getattr(layer, "kernel", ()), "float32")
        if kernel.ndim < 2 or kernel.size != kernel.shape[-2] * kernel.shape[-1]:
            expected = f"a linear classifier of {self.model.name!r}"
            raise ValueError(explain_mismatch(expected, f"the layer {edge.path!r}", "end it in a Dense layer"))
        bias = np.zeros(kernel.shape[-1]) if layer.bias is None else layer.bias
        return kernel.reshape(kernel.shape[-2:]), np.array(bias, "float32")

    def class_centers(self) -> np.ndarray:
        """The direction `(D, K)` of each class in the space of the embedding, float32.

        It is the variable `centers` of a classifier that compares angles, or the kernel of a linear one.

        Raises:
            ValueError: if the classifier is neither.
        """
        centers = getattr(self.classifier().original, "centers", None)
        return self.classifier_weights()[0] if centers is None else np.array(centers, "float32")

    def batch_norm(self, tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The scale and the offset `(C,)` of the BatchNorm that returns a map or ends the longest branch of a sum.

        Raises:
            ValueError: if the map does not come from a BatchNorm.
        """
        edge = self.producer(tensor)
        if edge and isinstance(edge.operation, layers.Add):
            depths = self._depths()
            branches = [source for source in edge.sources if _is_batch_norm(self.producer(source))]
            edge = self.producer(max(branches, key=lambda source: depths[id(source)])) if branches else edge
        if edge is None or not _is_batch_norm(edge):
            received = f"{self.spec(tensor).layer!r} of {self.model.name!r}"
            advice = 'use the tap "stages:pre" of a network with a BatchNormalization before each activation'
            raise ValueError(explain_mismatch("a map that comes from a BatchNormalization", received, advice))
        layer, width = edge.original, edge.original.moving_mean.shape
        scale = np.ones(width) if layer.gamma is None else layer.gamma
        offset = np.zeros(width) if layer.beta is None else layer.beta
        return np.array(scale, "float32"), np.array(offset, "float32")

    def missing_tap(self, name: str, advice: str) -> ValueError:
        """The error for a tap that the network does not have."""
        end = "" if advice[-1] in ".?!" else "."
        return ValueError(f"Network {self.model.name!r} has no tap {shorten(name)}: {advice}{end}")

    def _depths(self) -> dict[int, int]:
        """The number of operations on the longest path to each tensor, by the tensor's id."""
        depths: dict[int, int] = {}
        for edge in self.calls:
            depth = 1 + max((depths.get(id(source), 0) for source in edge.sources), default=0)
            depths.update(dict.fromkeys(map(id, edge.results), depth))
        return depths

    def _sinks(self) -> list[Tensor]:
        """The ends of all paths: the logits, or all outputs of a model that has several and none called "logits"."""
        has_logits = isinstance(self.output, Mapping) and ("logits" in self.output or len(self.output) == 1)
        return tree.flatten(self.output) if tree.is_nested(self.output) and not has_logits else [self.head().logits]

    def _dominators(self) -> list[Tensor]:
        """The tensors on every path from the inputs to the logits, in order.

        A tensor is on every path if the number of paths to it times the number of paths from it is that of all paths.
        """
        sinks = {id(tensor): 1 for tensor in self._sinks()}
        arriving = {id(tensor): 1 for tensor in tree.flatten(self.inputs)}
        for edge in self.calls:
            ways = sum(arriving.get(id(source), 0) for source in edge.sources)
            arriving.update(dict.fromkeys(map(id, edge.results), ways))
        leaving = dict(sinks)
        for edge in reversed(self.calls):
            ways = sum(leaving.get(id(result), 0) for result in edge.results)
            for source in edge.sources:
                leaving[id(source)] = leaving.get(id(source), 0) + ways
        tensors = [result for edge in self.calls for result in edge.results]
        paths = sum(arriving[sink] for sink in sinks)
        return [t for t in tensors if arriving[id(t)] * leaving.get(id(t), 0) == paths > 0]


def _is_batch_norm(edge: Edge | None) -> bool:
    return edge is not None and isinstance(edge.original, layers.BatchNormalization)


def _is_activation(operation: Operation) -> bool:
    return isinstance(operation, ACTIVATIONS) or type(operation).__name__.lower() in ACTIVATION_NAMES


def _is_rearranging(operation: Operation) -> bool:
    """Whether an operation only reshapes or transposes."""
    return type(operation).__name__ in ("Reshape", "Permute", "Transpose")
