"""A Keras model's operations, called again one by one on fresh symbolic inputs.

A Functional or Sequential model is replayed layer by layer, with nested models unfolded and fused activations split off
(`Dense(10, activation="softmax")` becomes a linear layer and a softmax). The replayed layers are the model's own and
share its variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
from keras import layers, tree

from kd_keras.contracts import TapSpec, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.private_api import functional_of, is_functional, nodes_in_order, output_structure

Operation: TypeAlias = Any  # a Keras layer or another operation; Keras has no public name for their base class
FUSED: tuple[type, ...]
FUSED = (layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv2DTranspose)
FUSED += (layers.DepthwiseConv2D, layers.SeparableConv2D)


class Linear(layers.Layer):
    """A layer without its fused activation, sharing its variables.

    The activation is exchanged only while the layer is called, which keeps the layer's handling of dtypes,
    quantization and data formats.
    """

    def __init__(self, layer: layers.Layer):
        super().__init__(name=f"{layer.name}_linear", dtype=policy_of(layer), autocast=False)
        self.layer = layer
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        activation, self.layer.activation = self.layer.activation, keras.activations.linear
        try:
            return self.layer(inputs)
        finally:
            self.layer.activation = activation

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return self.layer.compute_output_shape(input_shape)


class Renamed(layers.Layer):
    """Calls an operation under another name."""

    def __init__(self, operation: Operation, name: str):
        super().__init__(name=name, dtype=policy_of(operation), autocast=False)
        self.operation = operation
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.operation(*args, **kwargs)


class Edge(NamedTuple):
    """One call of an operation, from tensors to tensors; without an operation, a nested model's output.

    Attributes:
        path: the names of the models that it is nested in, then the operation's name, such as `"backbone/conv1"`.
        operation: a layer or another Keras operation, or `None`.
        sources: the tensors that it reads.
        results: the tensors that it returns.
    """

    path: str
    operation: Operation  # or None
    sources: list[Tensor]
    results: list[Tensor]

    @property
    def original(self) -> Operation:
        """The model's own operation, without the wrappers in which it is called again."""
        operation = self.operation.operation if isinstance(self.operation, Renamed) else self.operation
        return operation.layer if isinstance(operation, Linear) else operation


class Graph:
    """A model's operations, called again on fresh inputs in topological order.

    Args:
        model: a built Functional or Sequential model.

    Attributes:
        model: the model that was replayed.
        inputs: the fresh inputs, in the structure in which the model takes them.
        output: the new output, in the structure in which the model returns it.
        edges: every call of an operation, and the output of every nested model.
        calls: the edges that are calls of operations.

    Raises:
        ValueError: if a Sequential model is not built.

    >>> network = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu", name="hidden")])
    >>> [edge.path for edge in Graph(network).edges]
    ['hidden:linear', 'hidden']
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.edges: list[Edge] = []
        graph = functional(model)
        fresh = {id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in graph.inputs}
        self.inputs = tree.map_structure(lambda t: fresh[id(t)], graph.input)
        self._named: dict[str, Operation] = {}
        self._split: dict[int, tuple[layers.Layer, layers.Layer]] = {}
        output = self._replay(graph, [fresh[id(t)] for t in graph.inputs], "")
        self.output = output[0] if isinstance(output, (list, tuple)) and len(output) == 1 else output
        self.calls = [edge for edge in self.edges if edge.operation is not None]
        self._producers = {id(result): edge for edge in self.calls for result in edge.results}

    def producer(self, tensor: Tensor) -> Edge | None:
        """The call that returns a tensor, or `None` for an input."""
        return self._producers.get(id(tensor))

    def spec(self, tensor: Tensor) -> TapSpec:
        """The path of the layer that returns a tensor, and the tensor's shape."""
        edge = self.producer(tensor)
        return TapSpec(edge.path if edge else tensor.name, tuple(tensor.shape))

    def derive(self, source: Tensor, function: Callable[[Tensor], Tensor], name: str) -> Tensor:
        """Applies a function to a tensor; the graph knows the result by the path `<path of the tensor>:<name>`."""
        result = function(source)
        self._producers[id(result)] = Edge(f"{self.spec(source).layer}:{name}", None, [source], [result])
        return result

    def _replay(self, graph: keras.Model, inputs: Sequence[Tensor], prefix: str) -> Any:
        values = dict(zip(map(id, graph.inputs), inputs[: len(graph.inputs)], strict=True))
        for node in nodes_in_order(graph):
            if node.is_input:
                continue
            args, kwargs = node.arguments.fill_in(values)
            results = self._call(node.operation, args, kwargs, prefix)
            values.update(zip(map(id, node.outputs), tree.flatten(results), strict=True))
        return tree.map_structure(lambda t: values[id(t)], output_structure(graph))

    def _call(self, operation: Operation, args: tuple, kwargs: dict[str, Any], prefix: str) -> Any:
        path = prefix + operation.name
        if isinstance(operation, keras.Model) and is_walkable(operation):
            nested = self._replay(functional(operation), tree.flatten((args, kwargs.get("inputs", ()))), f"{path}/")
            self.edges.append(Edge(path, None, [], tree.flatten(nested)))
            return nested
        if isinstance(operation, FUSED) and _is_fused(operation):
            if id(operation) not in self._split:  # a shared layer is split once
                self._split[id(operation)] = _split(operation)
            linear, operation = self._split[id(operation)]
            args, kwargs = (self._record(f"{path}:linear", linear, args, kwargs),), {}
        return self._record(path, operation, args, kwargs)

    def _record(self, path: str, operation: Operation, args: tuple, kwargs: dict[str, Any]) -> Any:
        results = self._unique(operation, path)(*args, **kwargs)
        sources = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        self.edges.append(Edge(path, operation, sources, tree.flatten(results)))
        return results

    def _unique(self, operation: Operation, path: str) -> Operation:
        """The operation, renamed if nested models use its name twice, because Keras needs unique names in a model."""
        if self._named.setdefault(operation.name, operation) is operation:
            return operation
        name = path.replace("/", "_").replace(":", "_")
        while (taken := self._named.get(name)) is not None and getattr(taken, "operation", None) is not operation:
            name += "_"
        return self._named.setdefault(name, taken or Renamed(operation, name))


def is_walkable(model: keras.Model) -> bool:
    """Whether the model is a graph of layers: Functional or Sequential, and runs as one."""
    graph = functional(model)
    return is_functional(graph) and type(graph).call.__module__.startswith("keras.")


def functional(model: keras.Model) -> keras.Model:
    """The graph of layers that a Sequential model runs; another model itself.

    Raises:
        ValueError: if a Sequential model is not built.
    """
    if isinstance(model, keras.Sequential):
        if not model.built:
            advice = "begin it with keras.Input(shape)"
            raise ValueError(explain_mismatch("a built model", f"{model.name!r}, which is unbuilt", advice))
        return functional_of(model)
    return model


def policy_of(operation: Operation) -> Any:
    """The dtype policy for a layer that wraps an operation or continues it.

    That of a quantized layer is the one it computes in, since Keras calls a quantized method of each layer with a
    quantized policy, which only the layer itself has.

    >>> policy_of(layers.Dense(2, dtype="int8_from_mixed_bfloat16"))
    'bfloat16'
    """
    policy = getattr(operation, "dtype_policy", None)
    is_quantized = getattr(operation, "quantization_mode", None) is not None
    return (
        operation.compute_dtype if is_quantized or isinstance(policy, keras.dtype_policies.DTypePolicyMap) else policy
    )


def _is_fused(layer: layers.Layer) -> bool:
    return layer.activation is not keras.activations.linear and layer.activity_regularizer is None


def _split(layer: layers.Layer) -> tuple[layers.Layer, layers.Layer]:
    return Linear(layer), layers.Activation(layer.activation, name=layer.name, dtype=policy_of(layer))
