"""Taps: one model with several outputs from any Keras model, in one forward pass, sharing its layers.

A Functional or Sequential model is called again on fresh symbolic inputs, layer by layer, with nested models
unfolded and fused activations split off (`Dense(10, activation="softmax")` becomes a linear layer and a softmax).
On that graph

* `"logits"` is what comes before a final softmax;
* `"embedding"` is what the layer that computes the logits reads, before dropout, averaged over space;
* `"stages"` are the last maps of each resolution that every path from input to logits passes;
* `"stages:pre"` are the same before their activation, where they end in one, else the same maps;
* `"stages[1]"` is one of either;
* any other name is a layer's path, `"backbone/conv4_block6_out"`; with `*` or `?` in it, a list of all that match.

A subclassed model cannot be walked: the tensor that it returns is its logits, or it returns a dictionary of taps, of
which "logits" is then its output.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, tree

from kd_keras.contracts import Outputs, TapSpec
from kd_keras.errors import explain_mismatch, suggest

FUSED = (layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv2DTranspose)
FUSED += (layers.DepthwiseConv2D, layers.SeparableConv2D)
ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax)
POOLINGS = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten)
PADDINGS = (layers.ZeroPadding2D, layers.Cropping2D)
DROPOUTS = (layers.Dropout, layers.SpatialDropout2D, layers.GaussianDropout, layers.GaussianNoise)


class Specs(dict):
    """What a network's taps will deliver, by name: a `TapSpec`, or for stages a list of them.

    Of a network that is at hand it also knows the constants that some methods read; after loading from a file there is
    none, and what a method made of them then is in the file.

    Args:
        specs: by the tap's name.
        graph: the walked network, if it is at hand and can be walked.
        class_order: for each class its position among the network's classes.
    """

    def __init__(self, specs: Mapping[str, Any], graph: Graph | None = None, class_order: list[int] | None = None):
        super().__init__(specs)
        self._graph = graph
        self._class_order = class_order

    def reordered(self, class_order: list[int] | None) -> Specs:
        """The same with another order of the classes."""
        return Specs(self, self._graph, class_order)

    def classifier(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The kernel `(D, K)` and the bias `(K,)` from embedding to logits, float32; `None` without a network.

        Raises:
            ValueError: where the logits are not one linear layer of the embedding.
        """
        if self._graph is None:
            return None
        kernel, bias = self._graph.classifier_weights()
        order = slice(None) if self._class_order is None else self._class_order
        return kernel[:, order], bias[order]

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """For each map of a tap before activation, the scale and the offset `(C,)` of the BatchNorm that makes it, or
        that ends the longest of the branches that are added up to it; `None` without a network.

        Raises:
            ValueError: where a map does not come from a BatchNorm.
        """
        if self._graph is None:
            return None
        return [self._graph.batch_norm(tensor) for tensor in tree.flatten(self._graph.tap(tap))]


class Tapped:
    """A model that returns its own output and the taps that were asked for, in one pass.

    Keras does not track it: the model's variables stay the model's own.

    Args:
        model: any built Keras model.
        wanted: names of taps.
        output: whether the model's own output is wanted too; without it a graph of layers runs only as far as its taps
            need, and the output is `None`.

    Attributes:
        specs: for each tap its `TapSpec`, or a list of them for stages; as `Specs`.

    Raises:
        ValueError: where the model is not built, or has no such tap (with those that it has).

    >>> model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax", name="classify")])
    >>> tapped = Tapped(model, ["logits", "embedding"])
    >>> tapped.specs["embedding"].shape
    (None, 4)
    >>> output, taps = tapped(keras.ops.zeros((2, 4)), training=False)
    >>> taps["logits"].shape[-1]
    3
    """

    def __init__(self, model: keras.Model, wanted: Iterable[str], output: bool = True):
        self.model = model
        wanted = list(dict.fromkeys(wanted))
        if is_walkable(model):
            graph = Graph(model)
            found = {name: graph.tap(name) for name in wanted}
            own = {"output": graph.output} if output or not found else {}
            self._flat = keras.Model(graph.inputs, {**own, "taps": found})
            self.specs = Specs({name: tree.map_structure(graph.spec, tap) for name, tap in found.items()}, graph)
        else:
            self._flat = None
            self.specs = Specs({name: _declared_spec(model, name) for name in wanted})
        self._wanted = wanted

    def __call__(self, inputs: Any, training: bool) -> tuple[Any, Outputs]:
        """The model's output and its taps."""
        if self._flat is not None:
            outputs = self._flat(inputs, training=training)
            return outputs.get("output"), Outputs(outputs["taps"])
        output = self.model(inputs, training=training)
        taps = output if isinstance(output, Mapping) else {"logits": output}
        return taps.get("logits", output), Outputs({name: taps[name] for name in self._wanted})


def is_walkable(model: keras.Model) -> bool:
    """Whether the model is a graph of layers: Functional or Sequential, and runs as one."""
    graph = functional(model)
    return hasattr(graph, "_nodes_by_depth") and type(graph).call.__module__.startswith("keras.")


def functional(model: keras.Model) -> keras.Model:
    """The graph of layers that a Sequential model runs; another model itself.

    Raises:
        ValueError: where it is not built.
    """
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(explain_mismatch("a built model", f"{model.name!r}, unbuilt", "begin it with keras.Input(shape)"))
        return model._functional
    return model


def _declared_spec(model: keras.Model, name: str) -> TapSpec | list[TapSpec]:
    """The specification of a tap that a subclassed model returns."""
    if not model.built:
        raise ValueError(explain_mismatch("a built model", f"{model.name!r}, unbuilt", "call it on one batch first"))
    shape = next(iter(model.get_build_config().values()))
    if not isinstance(shape, (tuple, list)) or not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(explain_mismatch("a subclassed model of one input tensor", f"{model.name!r}, built on {shape}"))
    outputs = model.compute_output_spec(keras.KerasTensor((None, *shape[1:]), dtype=model.compute_dtype))
    taps = outputs if isinstance(outputs, Mapping) else {"logits": outputs}
    if name not in taps:
        remedy = f'it gives {", ".join(sorted(taps))}; return a dictionary of taps from its call, "logits" among them'
        raise ValueError(explain_mismatch(f"the tap {name!r} of {model.name!r}, a subclassed model", "none such", remedy))
    return tree.map_structure(lambda tensor: TapSpec(f"{model.name}[{name!r}]", tuple(tensor.shape)), taps[name])


class Linear(layers.Layer):
    """A layer without its fused activation, sharing its variables.

    The activation is exchanged only while the layer is called, which keeps its own handling of dtypes, quantisation
    and data formats.
    """

    def __init__(self, layer: layers.Layer):
        super().__init__(name=f"{layer.name}_linear", dtype=layer.dtype_policy)
        self.layer = layer
        self.built = True

    def call(self, inputs: Any) -> Any:
        activation, self.layer.activation = self.layer.activation, keras.activations.linear
        try:
            return self.layer(inputs)
        finally:
            self.layer.activation = activation

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return self.layer.compute_output_shape(input_shape)


class Renamed(layers.Layer):
    """An operation under another name."""

    def __init__(self, operation: Any, name: str):
        super().__init__(name=name, dtype=getattr(operation, "dtype_policy", None), autocast=False)
        self.operation = operation
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.operation(*args, **kwargs)


class Edge(NamedTuple):
    """One call of an operation in a graph, from tensors to tensors; without an operation, a nested model's output."""

    path: str
    operation: Any
    sources: list
    results: list

    @property
    def original(self) -> Any:
        """The model's own operation, without what it was wrapped in to be called again."""
        operation = self.operation.operation if isinstance(self.operation, Renamed) else self.operation
        return operation.layer if isinstance(operation, Linear) else operation


class Graph:
    """A model's operations, called again on fresh inputs, in an order in which each comes after what it reads."""

    def __init__(self, model: keras.Model):
        self.model = model
        self.edges: list[Edge] = []
        graph = functional(model)
        fresh = {id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in graph.inputs}
        structure = graph.input if graph is model else graph.inputs  # a Sequential's lone input comes without a list
        self.inputs = tree.map_structure(lambda t: fresh[id(t)], structure)
        self._named: dict[str, Any] = {}
        self._split: dict[int, tuple] = {}
        output = self._replay(graph, [fresh[id(t)] for t in graph.inputs], "")
        self.output = output[0] if isinstance(output, (list, tuple)) and len(output) == 1 else output
        self.calls = [edge for edge in self.edges if edge.operation is not None]
        self._made_by = {id(result): edge for edge in self.calls for result in edge.results}

    def _replay(self, graph: keras.Model, inputs: list, prefix: str) -> Any:
        values = dict(zip(map(id, graph.inputs), inputs))
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args, kwargs = node.arguments.fill_in(values)
                results = self._call(node.operation, args, kwargs, prefix)
                values.update(zip(map(id, node.outputs), tree.flatten(results)))
        return tree.map_structure(lambda t: values[id(t)], graph._outputs_struct)

    def _call(self, operation: Any, args: tuple, kwargs: dict, prefix: str) -> Any:
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

    def _record(self, path: str, operation: Any, args: tuple, kwargs: dict) -> Any:
        results = self._unique(operation, path)(*args, **kwargs)
        sources = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        self.edges.append(Edge(path, operation, sources, tree.flatten(results)))
        return results

    def _unique(self, operation: Any, path: str) -> Any:
        """The operation, behind another name where nested models use one name twice, which Keras does not allow."""
        if self._named.setdefault(operation.name, operation) is operation:
            return operation
        name = path.replace("/", "_").replace(":", "_")
        while (taken := self._named.get(name)) is not None and getattr(taken, "operation", None) is not operation:
            name += "_"
        return self._named.setdefault(name, taken or Renamed(operation, name))

    def spec(self, tensor: Any) -> TapSpec:
        """The layer that makes a tensor and the tensor's shape."""
        edge = self.maker(tensor)
        return TapSpec(edge.path if edge else tensor.name, tuple(tensor.shape))

    def tap(self, name: str) -> Any:
        """The tensor, or for stages the tensors, of a tap.

        Raises:
            ValueError: where the model has none of that name.
        """
        indexed = re.fullmatch(r"(stages(?::pre)?)\[(-?\d+)\]", name)
        if indexed:
            stages, number = self.tap(indexed[1]), int(indexed[2])
            if not -len(stages) <= number < len(stages):
                raise self._absent(name, f"it has {len(stages)} stages, numbered from 0")
            return stages[number]
        named = self.output if isinstance(self.output, Mapping) else {}
        if name == "logits":
            return self.logits()
        if name in named:
            return named[name]
        if name == "embedding":
            return self.embedding()
        if name in ("stages", "stages:pre"):
            stages = self.stages()
            return stages if name == "stages" else [self.before_activation(stage) for stage in stages]
        paths = dict.fromkeys(edge.path for edge in self.edges if fnmatch.fnmatchcase(edge.path, name))
        return [self._layer_output(path) for path in paths] if {*"*?"} & {*name} and paths else self._layer_output(name)

    def _layer_output(self, path: str) -> Any:
        calls = [edge for edge in self.edges if edge.path == path]
        if not calls:
            choices = ["logits", "embedding", "stages", "stages:pre", *(edge.path for edge in self.edges)]
            raise self._absent(path, suggest(path, choices) if len(choices) < 40 else _close(path, choices))
        if len(calls) > 1 or len(calls[0].results) > 1:
            raise self._absent(path, "it is called more than once or has several outputs; tap a layer after it")
        return calls[0].results[0]

    def logits(self) -> Any:
        """What comes before a final softmax."""
        output = self.output.get("logits") if isinstance(self.output, Mapping) else self.output
        if output is None or tree.is_nested(output):
            raise self._absent("logits", 'it has several outputs; name the one by the key "logits"')
        edge = self.maker(output)
        if edge is None or not _is_softmax(edge.operation):
            return output
        if not _is_activation(edge.operation):
            raise self._absent("logits", f"{edge.path!r} regularises its softmax; make the softmax a layer of its own")
        return edge.sources[0]

    def embedding(self) -> Any:
        """What the classifier reads, `(B, D)`, before dropout and averaged over space."""
        tensor = self.classifier().sources[0]
        while (edge := self.maker(tensor)) and isinstance(edge.operation, DROPOUTS):
            tensor = edge.sources[0]
        if len(tensor.shape) != 4:
            return tensor
        mean = keras.ops.mean(tensor, axis=(1, 2))
        self._made_by[id(mean)] = Edge(f"{self.spec(tensor).layer}:mean", None, [tensor], [mean])
        return mean

    def stages(self) -> list:
        """The last map of each resolution that every path to the logits passes, largest first."""
        stages: dict[tuple, Any] = {}
        learned = self.learned()
        classifier = self.classifier(required=False)
        for tensor in self._dominators():
            edge = self.maker(tensor)
            if id(tensor) not in learned or isinstance(edge.operation, PADDINGS):
                continue
            if _is_rearranged(edge) and tuple(tensor.shape[1:3]) not in stages:  # such as inside a channel shuffle
                continue
            if edge is classifier or _is_pooling(edge.operation):
                break
            if len(tensor.shape) == 4:
                stages[tuple(tensor.shape[1:3])] = tensor
        if not stages:
            raise self._absent("stages", "no map lies on every path from input to logits; name the layers")
        if any(None in size for size in stages):
            raise self._absent("stages", "its maps have no known size; build it with a fixed input_shape")
        return list(stages.values())

    def learned(self) -> set[int]:
        """The tensors that a layer with a kernel leads to; those before it are the image, prepared."""
        found: set[int] = set()
        for edge in self.calls:
            if _has_kernel(edge.operation) or any(id(source) in found for source in edge.sources):
                found.update(map(id, edge.results))
        return found

    def before_activation(self, tensor: Any) -> Any:
        """What an activation reads, where the tensor is an activation's output; else the tensor itself."""
        edge = self.maker(tensor)
        return edge.sources[0] if edge and _is_activation(edge.operation) else tensor

    def classifier_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The kernel `(D, K)` and the bias `(K,)` of the classifier."""
        edge = self.classifier()
        layer = edge.original
        kernel = np.array(getattr(layer, "kernel", ()), "float32")
        if kernel.ndim < 2 or kernel.size != kernel.shape[-2] * kernel.shape[-1]:
            remedy = "end it in a Dense layer"
            raise ValueError(explain_mismatch(f"a linear classifier of {self.model.name!r}", f"{edge.path!r}", remedy))
        bias = np.zeros(kernel.shape[-1]) if layer.bias is None else layer.bias
        return kernel.reshape(kernel.shape[-2:]), np.array(bias, "float32")

    def batch_norm(self, tensor: Any) -> tuple[np.ndarray, np.ndarray]:
        """The scale and the offset `(C,)` of the BatchNorm that makes a map, or ends the longest branch of its sum."""
        edge = self.maker(tensor)
        found = [edge] if edge else []
        if edge and isinstance(edge.operation, layers.Add):
            depths = self._depths()
            branches = [source for source in edge.sources if self._is_batch_norm(self.maker(source))]
            found = [self.maker(max(branches, key=lambda source: depths[id(source)]))] if branches else found
        if not found or not self._is_batch_norm(found[0]):
            remedy = 'tap "stages:pre" of a network that normalises by batch before each activation'
            came = f"{self.spec(tensor).layer!r} of {self.model.name!r}"
            raise ValueError(explain_mismatch("a map that comes from a BatchNormalization", came, remedy))
        layer = found[0].original
        width = tensor.shape[-1]
        scale = np.ones(width) if layer.gamma is None else layer.gamma
        offset = np.zeros(width) if layer.beta is None else layer.beta
        return np.array(scale, "float32"), np.array(offset, "float32")

    @staticmethod
    def _is_batch_norm(edge: Edge | None) -> bool:
        return edge is not None and isinstance(edge.original, layers.BatchNormalization)

    def _depths(self) -> dict[int, int]:
        """How many operations lead to each tensor, on the longest way."""
        depths: dict[int, int] = {}
        for edge in self.calls:
            depth = 1 + max((depths.get(id(source), 0) for source in edge.sources), default=0)
            depths.update(dict.fromkeys(map(id, edge.results), depth))
        return depths

    def maker(self, tensor: Any) -> Edge | None:
        return self._made_by.get(id(tensor))

    def classifier(self, required: bool = True) -> Edge | None:
        """The last layer with a kernel on the way to the logits, where one way leads there."""
        edge = self.maker(self._sinks()[0]) if len(self._sinks()) == 1 else None
        while edge is not None and not _has_kernel(edge.operation):
            edge = self.maker(edge.sources[0]) if len(edge.sources) == 1 else None
        if edge is None and required:
            raise self._absent("embedding", "no single layer computes its logits; name the layer that you mean")
        return edge

    def _sinks(self) -> list:
        """Where all paths lead: the logits, or in a model of several outputs without them all outputs."""
        named = isinstance(self.output, Mapping) and "logits" in self.output
        return tree.flatten(self.output) if tree.is_nested(self.output) and not named else [self.logits()]

    def _dominators(self) -> list:
        """The tensors on every path from the inputs to the logits, in order.

        A tensor is one of them if the paths that lead to it times those that lead on from it are all the paths.
        """
        sinks = {id(tensor): 1 for tensor in self._sinks()}
        inputs = tree.flatten(self.inputs)
        to = {id(tensor): 1 for tensor in inputs}
        for edge in self.calls:
            to.update(dict.fromkeys(map(id, edge.results), sum(to.get(id(source), 0) for source in edge.sources)))
        onward = dict(sinks)
        for edge in reversed(self.calls):
            ways = sum(onward.get(id(result), 0) for result in edge.results)
            for source in edge.sources:
                onward[id(source)] = onward.get(id(source), 0) + ways
        every = [result for edge in self.calls for result in edge.results]
        paths = sum(to[sink] for sink in sinks)
        return [t for t in every if to[id(t)] * onward.get(id(t), 0) == paths > 0]

    def _absent(self, name: str, remedy: str) -> ValueError:
        return ValueError(explain_mismatch(f"the tap {name!r} of {self.model.name!r}", "none such", remedy))


ACTIVATION_NAMES = {name.replace("_", "") for name in dir(keras.activations) if name.islower()}


def _is_fused(layer: layers.Layer) -> bool:
    return layer.activation is not keras.activations.linear and layer.activity_regularizer is None


def _split(layer: layers.Layer) -> tuple[layers.Layer, layers.Layer]:
    return Linear(layer), layers.Activation(layer.activation, name=layer.name, dtype=layer.dtype_policy)


def _is_softmax(operation: Any) -> bool:
    activation = getattr(operation, "activation", None)  # Keras's own or TensorFlow's
    return type(operation).__name__ == "Softmax" or getattr(activation, "__name__", "") in ("softmax", "softmax_v2")


def _is_activation(operation: Any) -> bool:
    return isinstance(operation, ACTIVATIONS) or type(operation).__name__.lower() in ACTIVATION_NAMES


def _is_pooling(operation: Any) -> bool:
    return isinstance(operation, POOLINGS) or type(operation).__name__ in ("Mean", "Max")


def _is_rearranged(edge: Edge) -> bool:
    """Whether it only moves the values of a map about."""
    return type(edge.operation).__name__ in ("Reshape", "Permute", "Transpose") and len(edge.sources[0].shape) == 4


def _has_kernel(operation: Any) -> bool:
    return any(len(variable.shape) > 1 for variable in getattr(operation, "weights", ()))


def _close(path: str, choices: list[str]) -> str:
    """The nearest of many layers, by the end of their paths, since a nested layer is often asked for by its name."""
    by_end = {choice.rsplit("/", 1)[-1]: choice for choice in choices}
    hint = suggest(path.rsplit("/", 1)[-1], by_end)
    return hint if hint.startswith("did you") else "list them with model.summary(expand_nested=True)"
