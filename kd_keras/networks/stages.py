"""The stages of a network, which methods read besides its logits, classifier and embedding.

They are the maps that the network declares: the outputs of its layers `stage1_out`, `stage2_out`, ..., or of a network
with a pyramid, on whose levels its heads stand, those of `pyramid_p2`, `pyramid_p3`, ... Of a network without layers of
these names, they are the last maps of each resolution that every path from input to logits passes; of a transformer,
the map of its tokens.
"""

from __future__ import annotations

import re

import keras
import numpy as np
from keras import layers, tree

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.networks.classifier import ClassifierGraph
from kd_keras.networks.features import has_kernel, is_pooling
from kd_keras.networks.graph import Edge, Operation
from kd_keras.networks.transformers import PatchTokens, find_tokens

ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax)
ACTIVATION_NAMES = {name.replace("_", "") for name in dir(keras.activations) if name.islower()}
PADDINGS = (layers.ZeroPadding2D, layers.Cropping2D)
# The names of the layers with which a network declares its stages.
STAGE, STEM, PYRAMID = r"stage(\d+)_out", r"stem_out()", r"pyramid_p(\d+)"


class StagedGraph(ClassifierGraph):
    """A model's replayed graph, in which logits, classifier, embedding and stages can be found.

    >>> maps = [layers.Conv2D(4, 3, name="one"), layers.Conv2D(4, 3, strides=2, name="two")]
    >>> head = [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(5, name="classify")]
    >>> graph = StagedGraph(keras.Sequential([keras.Input((9, 9, 3)), *maps, *head]))
    >>> [graph.spec(stage).layer for stage in graph.stages()], graph.spec(graph.embedding()).layer
    (['one', 'two'], 'pool')
    """

    def stages(self) -> list[Tensor]:
        """The maps `(B, H, W, C)` of the stages that the network declares, in their order.

        Of a network that declares none, the last map of each resolution that every path to the logits passes, largest
        first. Of a transformer, whose tokens have one resolution, the map of its last tokens.

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
        if not stages and self._find_tokens() is not None:
            return [self.tokens()]
        if not stages:
            raise self.missing_tap("stages", "no map is on every path from input to logits. Pass the paths of layers")
        if any(None in size for size in stages):
            raise self.missing_tap("stages", "the size of its maps is unknown. Build it with a fixed input_shape")
        return list(stages.values())

    def tokens(self) -> Tensor:
        """The last tokens of the patches of a transformer as a map `(B, h, w, D)`, without class and register tokens.

        Raises:
            ValueError: if the network is no transformer whose patches are known.
        """
        tokens = self._find_tokens()
        if tokens is None:
            raise self.missing_tap("tokens", "no layer cuts its image into patches. Pass the path of a layer")
        return self.derive(tokens.tensor, tokens.as_map, "tokens")

    def class_token(self) -> Tensor:
        """The class token `(B, D)` of a transformer after its last layer.

        Raises:
            ValueError: if there is none.
        """
        tokens = self._find_tokens()
        if tokens is None or not tokens.has_class_token:
            raise self.missing_tap("cls", "it is no transformer with a class token. Tap the embedding")
        return self.derive(tokens.tensor, lambda rows: rows[:, 0], "cls")

    def _find_tokens(self) -> PatchTokens | None:
        return find_tokens(self, self._dominators())

    def learned(self) -> set[int]:
        """The ids of the tensors that depend on a layer with a kernel; all others are forms of the input image."""
        learned: set[int] = set()
        for edge in self.calls:
            if has_kernel(edge.operation) or any(id(source) in learned for source in edge.sources):
                learned.update(map(id, edge.results))
        return learned

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

    def _depths(self) -> dict[int, int]:
        """The number of operations on the longest path to each tensor, by the tensor's id."""
        depths: dict[int, int] = {}
        for edge in self.calls:
            depth = 1 + max((depths.get(id(source), 0) for source in edge.sources), default=0)
            depths.update(dict.fromkeys(map(id, edge.results), depth))
        return depths

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
