"""Taps: outputs of any layers of a Keras model, computed in one forward pass that shares the model's layers.

A tap is named by what it reads:

* `"logits"` is what comes before a final softmax or sigmoid;
* `"logits:other"` is the same for the output or the layer called "other";
* `"embedding"` is what the layer that computes the logits reads, before dropout, averaged over height and width;
* `"embedding:map"` is the map that is pooled to the embedding;
* `"stages"` are the maps that the network declares, the outputs of its layers `stage1_out`, `stage2_out`, ..., as every
  network of the zoo does, or those of its pyramid, `pyramid_p2`, `pyramid_p3`, ..., as every detector of the zoo does;
  of any other, the last maps of each resolution that every path from input to logits passes;
* `"stages:pre"` are these maps before their activation if they end in one, or after the BatchNorm that comes before an
  activation after them, else the same maps;
* `"stages:stem"` are the stages after the output of the layer `stem_out`, if the network declares stages and has one;
* `"stages[1]"` and `"stages:pre[1]"` are one of these, counted from 0, or from the end if negative;
* `"tokens"` are the last tokens of the patches of a transformer, as a map `(B, h, w, D)` of the grid of the patches,
  without class, distillation and register tokens; they are its stages, too;
* `"cls"` is its class token after the last layer, `(B, D)`;
* any other name is a layer's path, `"backbone/conv4_block6_out"`; with `*` or `?` in it, a list of all that match.

Of several teachers, `"1:embedding"` is the embedding of teacher 1, counted from 0 (`Teacher.tapped`).

Maps of a network in channels_first are transposed to `(B, H, W, C)`.

A subclassed model has no graph that can be replayed. The tensor that it returns is its logits; if it returns a
dictionary, the entries are its taps and "logits" is its output. A single output of any name is the logits.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from kd_keras.contracts import Outputs, TapSpec, Tensor
from kd_keras.errors import explain_mismatch, shorten, suggest
from kd_keras.networks.graph import is_walkable
from kd_keras.networks.inputs import select_inputs
from kd_keras.networks.layouts import contains_channels_first
from kd_keras.networks.specs import Specs
from kd_keras.networks.stages import StagedGraph

MANY_LAYERS = 40  # from this number on, an error message does not list all paths


class GraphConstants:
    """The constants of a network whose graph is available."""

    def __init__(self, graph: StagedGraph):
        self.graph = graph

    def classifier_weights(self) -> tuple[np.ndarray, ...]:
        """The kernel `(D, K)` and the bias `(K,)` of the classifier, float32."""
        return self.graph.classifier_weights()

    def class_centers(self) -> np.ndarray:
        """The direction `(D, K)` of each class in the space of the embedding, float32."""
        return self.graph.class_centers()

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, ...]]:
        """The scale and the offset `(C,)` of the BatchNorm behind each map of a tap, float32."""
        return [self.graph.batch_norm(tensor) for tensor in tree.flatten(find_tap(self.graph, tap))]

    def layer(self, tap: str) -> keras.layers.Layer | None:
        """The layer that returns a tap of one tensor; `None` if no layer does."""
        edge = self.graph.producer(find_tap(self.graph, tap))
        return edge.original if edge and isinstance(edge.original, keras.layers.Layer) else None

    def between(self, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[list], list]:
        """The part of the network from some taps to others, in inference; as `Specs.between`."""
        part = keras.Model(*([find_tap(self.graph, tap) for tap in side] for side in (inputs, outputs)))
        return lambda tensors: part(tensors, training=False)  # a function, because Keras would track a model


class Tapped:
    """A model that returns its output and the wanted taps in one pass.

    Keras does not track it: the model's variables stay the model's own.

    Args:
        model: any built Keras model.
        wanted: names of taps.
        output: whether to return the model's output too. If not, a graph of layers returns `None` instead and runs only
            the layers that the taps need; a subclassed model returns its output nevertheless.

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
            taps = {name: tree.map_structure(graph.channels_last, find_tap(graph, name)) for name in self._wanted}
            own_output = {"output": graph.output} if output or not taps else {}
            self._replayed = keras.Model(graph.inputs, {**own_output, "taps": taps})
            specs = {name: tree.map_structure(graph.spec, tap) for name, tap in taps.items()}
            for name in specs:
                if name == "logits" or name.startswith("logits:"):
                    specs[name] = specs[name]._replace(activation=graph.head(_find_head(graph, name)).activation)
            self.specs = Specs(specs, GraphConstants(graph))
        else:
            declared = _declared_taps(model, self._wanted, trains=output)
            self.specs = Specs({name: _declared_spec(model, declared, name) for name in self._wanted})

    def __call__(self, inputs: Any, training: bool) -> tuple[Any, Outputs]:
        """The model's output and its taps.

        Args:
            inputs: what the model reads; of a dictionary, the model gets the entries with the names of its inputs.
            training: whether layers run in training, such as dropout and BatchNorm.
        """
        inputs = select_inputs(self.model, inputs)
        if self._replayed is not None:
            outputs = self._replayed(inputs, training=training)
            return outputs.get("output"), Outputs(outputs["taps"])
        output = self.model(inputs, training=training)
        taps = _as_taps(output)
        return taps.get("logits", output), Outputs({name: taps[name] for name in self._wanted})


def find_tap(graph: StagedGraph, name: str) -> Tensor | list[Tensor]:
    """The tensor of a tap, or a list of tensors for stages and patterns.

    Raises:
        ValueError: if the network has no tap of that name.

    >>> graph = StagedGraph(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="classify")]))
    >>> find_tap(graph, "classify") is find_tap(graph, "logits")
    True
    """
    indexed = re.fullmatch(r"(stages(?::pre|:stem)?)\[(-?\d+)\]", name)
    if indexed:
        stages, number = find_tap(graph, indexed[1]), int(indexed[2])
        if not -len(stages) <= number < len(stages):
            raise graph.missing_tap(name, f"it has {len(stages)} stages, numbered from 0")
        return stages[number]
    named_outputs = graph.output if isinstance(graph.output, Mapping) else {}
    if name == "logits" or name.startswith("logits:"):
        return graph.logits(_find_head(graph, name))
    if name in named_outputs:
        return named_outputs[name]
    if name == "embedding":
        return graph.embedding()
    if name in ("tokens", "cls"):
        return _token_tap(graph, name)
    if name == "embedding:map":
        return graph.embedding_map()
    if name == "stages:stem":
        return [*graph.stem(), *graph.stages()]
    if name == "stages":
        return graph.stages()
    if name == "stages:pre":
        return [graph.before_activation(stage) for stage in graph.stages()]
    if {*"*?"} & {*name}:
        paths = dict.fromkeys(edge.path for edge in graph.edges if fnmatch.fnmatchcase(edge.path, name))
        if paths:
            return [_layer_output(graph, path) for path in paths]
    return _layer_output(graph, name)


def split_number(tap: str) -> tuple[int | None, str]:
    """The number of a teacher and the name of its tap; `None` for a tap without a number.

    >>> split_number("1:stages[-1]"), split_number("logits:other")
    ((1, 'stages[-1]'), (None, 'logits:other'))
    """
    numbered = re.fullmatch(r"(\d+):(.+)", tap)
    return (int(numbered[1]), numbered[2]) if numbered else (None, tap)


def _token_tap(graph: StagedGraph, name: str) -> Tensor:
    """The tokens or the class token of a transformer; a layer of that name takes precedence."""
    if any(edge.path == name for edge in graph.edges):
        return _layer_output(graph, name)
    return graph.tokens() if name == "tokens" else graph.class_token()


def _find_head(graph: StagedGraph, name: str) -> Tensor | None:
    """The output of the head that "logits:<name>" names by its output or its last layer; `None` for "logits"."""
    if name == "logits":
        return None
    head = find_tap(graph, name.removeprefix("logits:"))
    if isinstance(head, list):
        raise graph.missing_tap(name, "it names several tensors. Name one output or layer")
    return head


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


def _as_taps(output: Any) -> Mapping[str, Any]:
    """What a subclassed model returns, as taps by name."""
    if isinstance(output, (list, tuple)) and len(output) == 1:
        output = output[0]
    if not isinstance(output, Mapping):
        return {"logits": output}
    return {"logits": next(iter(output.values())), **output} if len(output) == 1 else output


def _declared_taps(model: keras.Model, wanted: list[str], trains: bool) -> Mapping[str, Any]:
    """What a subclassed model returns, as symbolic tensors by the name of the tap.

    Args:
        model: the model.
        wanted: the names of the taps, for the error message.
        trains: whether the model must return the same taps in training.
    """
    if not model.built:
        received = f"{model.name!r}, which is unbuilt"
        raise ValueError(explain_mismatch("a built model", received, "call it on one batch first"))
    shape = next(iter((model.get_build_config() or {"": "no known shape"}).values()))
    if not isinstance(shape, (tuple, list)) or not all(size is None or isinstance(size, int) for size in shape):
        received = f"{model.name!r}, built on {shape}"
        advice = "use a Functional model, or one whose call takes a single tensor"
        raise ValueError(explain_mismatch("a subclassed model with one input tensor", received, advice))
    image = keras.KerasTensor((None, *shape[1:]), dtype=model.compute_dtype)
    takes_mode = trains and "training" in inspect.signature(model.call).parameters
    for mode in ({"training": False}, {"training": True}) if takes_mode else ({},):
        outputs = model.compute_output_spec(image, **mode)
        taps = _as_taps(outputs)
        if isinstance(taps.get("logits"), (list, tuple)):
            expected = f"a tensor or a dictionary from the subclassed model {model.name!r}"
            received = f"a {type(outputs).__name__} of {len(outputs)}" + " in training" * bool(mode.get("training"))
            advice = (
                f"return a dictionary of taps in training and in inference. Needed: {', '.join(wanted or ['logits'])}"
            )
            raise ValueError(explain_mismatch(expected, received, advice))
    return taps


def _declared_spec(model: keras.Model, taps: Mapping[str, Any], name: str) -> TapSpec | list[TapSpec]:
    """The specification of a tap that a subclassed model returns."""
    if name not in taps:
        raise ValueError(
            f"Network {model.name!r}, a subclassed model, has no tap {shorten(name)}: it returns "
            f"{', '.join(sorted(taps))}. "
            'Return a dictionary of taps from its call, "logits" among them.'
        )
    if any(len(tensor.shape) == 4 for tensor in tree.flatten(taps[name])) and contains_channels_first(model):
        raise ValueError(
            f"Expected maps (B, H, W, C) in the tap {name!r}, but network {model.name!r}, a subclassed model, has "
            "layers in channels_first. Use a Functional model, whose maps are transposed, or layers in channels_last."
        )
    return tree.map_structure(lambda tensor: TapSpec(f"{model.name}[{name!r}]", tuple(tensor.shape)), taps[name])
