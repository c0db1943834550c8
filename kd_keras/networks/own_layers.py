"""Tensors of a replayed graph, computed by the model's own layers, so that a model built on them can be saved.

`Graph` splits fused activations off and calls the parts by wrappers, which only the process that made them knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.networks.graph import Graph, Renamed, is_walkable


class UnsplitGraph(Graph):
    """The operations of a model, called again unchanged.

    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu", name="hidden")])
    >>> [edge.path for edge in UnsplitGraph(network).edges]
    ['hidden']
    """

    def _call(self, operation: Any, args: tuple, kwargs: dict, prefix: str) -> Any:
        if isinstance(operation, keras.Model) and is_walkable(operation):
            return super()._call(operation, args, kwargs, prefix)
        return self._record(prefix + operation.name, operation, args, kwargs)


def on_own_layers(graph: Graph, tensors: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Fresh inputs, and some tensors of a graph computed from them by the model's own layers.

    Args:
        graph: of a Functional or Sequential model, possibly with models nested in it.
        tensors: results of its calls.

    Returns:
        The inputs, in the structure in which the model takes them, and the tensors in their order.

    Raises:
        ValueError: if a tensor is inside a layer, before its fused activation, or if layers of nested models have the
            same name, because a model made of them cannot be saved.

    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu", name="hidden")])
    >>> inputs, outputs = on_own_layers(graph := Graph(network), [graph.output])
    >>> [layer.name for layer in keras.Model(inputs, outputs).layers[1:]]
    ['hidden']
    """
    whole = UnsplitGraph(graph.model)
    edges = [edge for edge in graph.edges if not edge.path.endswith(":linear")]
    pairs = zip(edges, whole.edges, strict=True)
    own = {id(result): copy for edge, call in pairs for result, copy in zip(edge.results, call.results, strict=True)}
    inside = [graph.spec(tensor).layer for tensor in tensors if id(tensor) not in own]
    if inside:
        expected = f"tensors of {graph.model.name!r} that its layers return"
        raise ValueError(explain_mismatch(expected, f"{inside}, before a fused activation", "choose other tensors"))
    copies = [own[id(tensor)] for tensor in tensors]
    renamed = [layer.name for layer in keras.Model(whole.inputs, copies).operations if isinstance(layer, Renamed)]
    if renamed:
        expected = f"layers of {graph.model.name!r} that differ in name"
        advice = "rename them, or pass a network without models nested in it"
        raise ValueError(explain_mismatch(expected, f"repeated names, {renamed}", advice))
    return whole.inputs, copies
