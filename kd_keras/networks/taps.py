"""Taps: outputs of any layers of a Keras model, computed in one forward pass that shares the model's layers.

A tap is named by what it reads:

* `"logits"` is what comes before a final softmax;
* `"embedding"` is what the layer that computes the logits reads, before dropout, averaged over height and width;
* `"stages"` are the last maps of each resolution that every path from input to logits passes;
* `"stages:pre"` are the maps before their activation if they end in one, else the same maps;
* `"stages[1]"` and `"stages:pre[1]"` are one of these, counted from 0, or from the end if negative;
* any other name is a layer's path, `"backbone/conv4_block6_out"`; with `*` or `?` in it, a list of all that match.

A subclassed model has no graph that can be replayed. The tensor that it returns is its logits; if it returns a
dictionary, the entries are its taps and "logits" is its output.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import keras
import numpy as np
from keras import tree

from kd_keras.contracts import Outputs, TapSpec, Tensor
from kd_keras.errors import explain_mismatch, suggest
from kd_keras.networks.graph import is_walkable
from kd_keras.networks.stages import StagedGraph

MANY_LAYERS = 40  # from this number on, an error message does not list all paths


class Constants(Protocol):
    """The constants of a network that some methods read, from the network itself or from a recording."""

    def classifier_weights(self) -> tuple[np.ndarray, ...]:
        """The kernel `(D, K)` and the bias `(K,)` from embedding to logits, float32."""

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, ...]]:
        """The scale and the offset `(C,)` of the BatchNorm behind each map of a tap, float32."""


class GraphConstants:
    """The constants of a network whose graph is available."""

    def __init__(self, graph: StagedGraph):
        self.graph = graph

    def classifier_weights(self) -> tuple[np.ndarray, ...]:
        """The kernel `(D, K)` and the bias `(K,)` of the classifier, float32."""
        return self.graph.classifier_weights()

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, ...]]:
        """The scale and the offset `(C,)` of the BatchNorm behind each map of a tap, float32."""
        return [self.graph.batch_norm(tensor) for tensor in tree.flatten(find_tap(self.graph, tap))]


class Specs(dict[str, Any]):
    """What a network's taps will deliver, by name: a `TapSpec`, or for stages a list of them.

    If the network is available, it also gives the constants that some methods read. After loading from a file there is
    no network; the file then contains what the methods computed from the constants.

    Args:
        specs: by the tap's name.
        constants: those of the network; `None` if it is not available or has no graph that can be replayed.
        class_order: for each class its position among the network's classes; `None` for the same order.
    """

    def __init__(
        self, specs: Mapping[str, Any], constants: Constants | None = None, class_order: list[int] | None = None
    ):
        super().__init__(specs)
        self._constants = constants
        self._class_order = class_order

    @property
    def shapes(self) -> dict[str, Any]:
        """The shape of each tap without the batch dimension, or a list of shapes for stages."""
        return {
            tap: [part.shape[1:] for part in spec] if isinstance(spec, list) else spec.shape[1:]
            for tap, spec in self.items()
        }

    def get_config(self) -> dict[str, list]:
        """The specifications in plain values: `[layer, shape]` by tap, or a list of these for stages.

        >>> Specs({"logits": TapSpec("head", (None, 10))}).get_config()
        {'logits': ['head', [None, 10]]}
        """

        def as_entry(spec: TapSpec) -> list:
            return [spec.layer, list(spec.shape)]

        return {
            tap: [as_entry(part) for part in spec] if isinstance(spec, list) else as_entry(spec)
            for tap, spec in self.items()
        }

    @classmethod
    def from_config(cls, config: Mapping[str, list], constants: Constants | None = None) -> Specs:
        """The specifications from their form in plain values.

        Args:
            config: as `get_config` returns it, also after a round trip through JSON.
            constants: those of the network; `None` if there are none.

        >>> Specs.from_config({"stages": [["conv1", [None, 8, 8, 4]]]})
        {'stages': [TapSpec(layer='conv1', shape=(None, 8, 8, 4))]}
        """

        def as_spec(entry: list) -> TapSpec | list[TapSpec]:
            if isinstance(entry[0], str):
                return TapSpec(entry[0], tuple(entry[1]))
            return [TapSpec(layer, tuple(shape)) for layer, shape in entry]

        return cls({tap: as_spec(entry) for tap, entry in config.items()}, constants)

    def reordered(self, class_order: list[int] | None) -> Specs:
        """The same specifications with another order of the classes."""
        return Specs(self, self._constants, class_order)

    def classifier(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The kernel `(D, K)` and the bias `(K,)` from embedding to logits, float32; `None` without a network.

        Raises:
            ValueError: if the logits are not one linear layer of the embedding.
        """
        if self._constants is None:
            return None
        kernel, bias = self._constants.classifier_weights()
        order = slice(None) if self._class_order is None else self._class_order
        return kernel[:, order], bias[order]

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, ...]] | None:
        """The scale and the offset `(C,)` of the BatchNorm that returns each map of a tap; `None` without a network.

        For a map that is a sum, they are those of the BatchNorm that ends the longest branch.

        Raises:
            ValueError: if a map does not come from a BatchNorm.
        """
        if self._constants is None:
            return None
        return self._constants.batch_norms(tap)


class Tapped:
    """A model that returns its output and the wanted taps in one pass.

    Keras does not track it: the model's variables stay the model's own.

    Args:
        model: any built Keras model.
        wanted: names of taps.
        output: whether to return the model's output too. If not, the output is `None`, and a graph of layers runs only
            the layers that the taps need.

    Attributes:
        specs: for each tap its `TapSpec`, or a list of them for stages; as `Specs`.

    Raises:
        ValueError: if the model is not built, or has no such tap; the message names similar ones.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax", name="classify")])
    >>> tapped = Tapped(model, ["logits", "embedding"])
    >>> tapped.specs["embedding"].shape
    (None, 4)
    >>> output, taps = tapped(keras.ops.zeros((2, 4)), training=False)
    >>> taps["logits"].shape[-1]
    3
    """

    def __init__(self, model: keras.Model, wanted: Iterable[str], output: bool = True):
        self.model = model
        self._wanted = list(dict.fromkeys(wanted))
        self._replayed: keras.Model | None = None
        if is_walkable(model):
            graph = StagedGraph(model)
            taps = {name: find_tap(graph, name) for name in self._wanted}
            own_output = {"output": graph.output} if output or not taps else {}
            self._replayed = keras.Model(graph.inputs, {**own_output, "taps": taps})
            specs = {name: tree.map_structure(graph.spec, tap) for name, tap in taps.items()}
            self.specs = Specs(specs, GraphConstants(graph))
        else:
            self.specs = Specs({name: _declared_spec(model, name) for name in self._wanted})

    def __call__(self, inputs: Any, training: bool) -> tuple[Any, Outputs]:
        """The model's output and its taps.

        Args:
            inputs: what the model reads.
            training: whether layers run in training, such as dropout and BatchNorm.
        """
        if self._replayed is not None:
            outputs = self._replayed(inputs, training=training)
            return outputs.get("output"), Outputs(outputs["taps"])
        output = self.model(inputs, training=training)
        taps = output if isinstance(output, Mapping) else {"logits": output}
        return taps.get("logits", output), Outputs({name: taps[name] for name in self._wanted})


def find_tap(graph: StagedGraph, name: str) -> Tensor | list[Tensor]:
    """The tensor of a tap, or a list of tensors for stages and patterns.

    Raises:
        ValueError: if the network has no tap of that name.

    >>> graph = StagedGraph(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="classify")]))
    >>> find_tap(graph, "classify") is find_tap(graph, "logits")
    True
    """
    indexed = re.fullmatch(r"(stages(?::pre)?)\[(-?\d+)\]", name)
    if indexed:
        stages, number = find_tap(graph, indexed[1]), int(indexed[2])
        if not -len(stages) <= number < len(stages):
            raise graph.missing_tap(name, f"it has {len(stages)} stages, numbered from 0")
        return stages[number]
    named_outputs = graph.output if isinstance(graph.output, Mapping) else {}
    if name == "logits":
        return graph.logits()
    if name in named_outputs:
        return named_outputs[name]
    if name == "embedding":
        return graph.embedding()
    if name == "stages":
        return graph.stages()
    if name == "stages:pre":
        return [graph.before_activation(stage) for stage in graph.stages()]
    if {*"*?"} & {*name}:
        paths = dict.fromkeys(edge.path for edge in graph.edges if fnmatch.fnmatchcase(edge.path, name))
        if paths:
            return [_layer_output(graph, path) for path in paths]
    return _layer_output(graph, name)


def _layer_output(graph: StagedGraph, path: str) -> Tensor:
    """The output of the layer at a path."""
    edges = [edge for edge in graph.edges if edge.path == path]
    if not edges:
        choices = ["logits", "embedding", "stages", "stages:pre", *(edge.path for edge in graph.edges)]
        raise graph.missing_tap(path, _suggest_layer(path, choices))
    if len(edges) > 1 or len(edges[0].results) > 1:
        raise graph.missing_tap(path, "it is called more than once or has several outputs. Tap a layer after it")
    return edges[0].results[0]


def _suggest_layer(path: str, choices: list[str]) -> str:
    """Advice for an unknown path. Among many layers it compares only names, because users often omit the path."""
    if len(choices) < MANY_LAYERS:
        return suggest(path, choices)
    ends = {choice.rsplit("/", 1)[-1] for choice in choices}
    advice = suggest(path.rsplit("/", 1)[-1], ends)
    return advice if advice.startswith("did you") else "list its layers with model.summary(expand_nested=True)"


def _declared_spec(model: keras.Model, name: str) -> TapSpec | list[TapSpec]:
    """The specification of a tap that a subclassed model returns."""
    if not model.built:
        received = f"{model.name!r}, which is unbuilt"
        raise ValueError(explain_mismatch("a built model", received, "call it on one batch first"))
    shape = next(iter(model.get_build_config().values()))
    if not isinstance(shape, (tuple, list)) or not all(size is None or isinstance(size, int) for size in shape):
        received = f"{model.name!r}, built on {shape}"
        advice = "use a Functional model, or one whose call takes a single tensor"
        raise ValueError(explain_mismatch("a subclassed model with one input tensor", received, advice))
    outputs = model.compute_output_spec(keras.KerasTensor((None, *shape[1:]), dtype=model.compute_dtype))
    taps = outputs if isinstance(outputs, Mapping) else {"logits": outputs}
    if name not in taps:
        raise ValueError(
            f"Network {model.name!r}, a subclassed model, has no tap {name!r}: it returns {', '.join(sorted(taps))}. "
            'Return a dictionary of taps from its call, "logits" among them.'
        )
    return tree.map_structure(lambda tensor: TapSpec(f"{model.name}[{name!r}]", tuple(tensor.shape)), taps[name])
