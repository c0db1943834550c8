"""The parts of a network at its end that methods read: its logits, its classifier and its embedding.

* The logits are what comes before a final softmax or sigmoid.
* The classifier is the last layer with a kernel on the way to the logits.
* The embedding is what the classifier reads, before dropout, averaged over height and width; of a network without a
  classifier, its output.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, tree

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch, shorten
from kd_keras.networks.features import DECLARED_EMBEDDING, has_kernel, is_pooling, returns_features
from kd_keras.networks.graph import Edge, Graph
from kd_keras.networks.heads import Head, find_head, keeps_values
from kd_keras.networks.layouts import find_channels_first

DROPOUTS = (layers.Dropout, layers.SpatialDropout2D, layers.GaussianDropout, layers.GaussianNoise)


class ClassifierGraph(Graph):
    """A model's replayed graph, in which logits, classifier and embedding can be found.

    >>> network = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(name="pool"), layers.Dense(5, name="classify")]
    >>> graph = ClassifierGraph(keras.Sequential([keras.Input((9, 9, 3)), *network]))
    >>> graph.spec(graph.logits()).layer, graph.spec(graph.embedding()).layer
    ('classify', 'pool')
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

        Of a network without a classifier, such as a backbone, it is the network's output. A network may declare it: it
        is the output of a layer called `embedding_out`.

        Raises:
            ValueError: if no single layer computes the logits, or if a network without a classifier returns tokens.
        """
        declared = [edge for edge in self.edges if edge.path.rsplit("/", 1)[-1] == DECLARED_EMBEDDING]
        if len(declared) == 1:
            tensor = declared[0].results[0]
        elif self._returns_features():
            tensor = self.logits()
            if len(tensor.shape) == 3:
                advice = "it returns tokens, without a classifier that reads a vector. Add GlobalAveragePooling1D(), "
                raise self.missing_tap("embedding", f'{advice}or tap "cls", its class token, or the path of a layer')
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
            ValueError: if the classifier is not linear, or the logits are not what it returns.
        """
        edge = self.classifier()
        layer, tensor = edge.original, self.logits()
        while (last := self.producer(tensor)) is not None and last.path != edge.path:
            if not keeps_values(last.original):
                expected = f"a classifier of {self.model.name!r} that returns its logits"
                advice = f"tap {edge.path!r} as the logits, or build it without the layer after it"
                raise ValueError(explain_mismatch(expected, f"{last.path!r} after {edge.path!r}", advice))
            tensor = last.sources[0]
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

    def missing_tap(self, name: str, advice: str) -> ValueError:
        """The error for a tap that the network does not have."""
        end = "" if advice[-1] in ".?!" else "."
        return ValueError(f"Network {self.model.name!r} has no tap {shorten(name)}: {advice}{end}")

    def _sinks(self) -> list[Tensor]:
        """The ends of all paths: the logits, or all outputs of a model that has several and none called "logits"."""
        has_logits = isinstance(self.output, Mapping) and ("logits" in self.output or len(self.output) == 1)
        return tree.flatten(self.output) if tree.is_nested(self.output) and not has_logits else [self.head().logits]
