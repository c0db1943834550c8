"""Tells networks that return features, such as backbones without a classifier, from those that return logits."""

from __future__ import annotations

from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.networks.graph import Graph, Operation
from kd_keras.private_api import sub_layers

NORMALIZATIONS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)
DECLARED_EMBEDDING = "embedding_out"  # the last layer of a network that `embedding_networks` made
POOLINGS = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten)
RECTIFIERS = ("relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "hardsilu", "swish", "mish")


def returns_features(graph: Graph, output: Tensor) -> bool:
    """Whether an output is one of features instead of logits.

    Features are normalized or rectified after the last kernel, pooled from a sum or a concatenation, or the result of a
    layer that contains layers, such as a transformer's encoder. What a softmax reads are logits. A network whose last
    layer is called `embedding_out` declares that it returns its embedding.

    >>> import keras
    >>> network = [layers.Conv2D(4, 3), layers.ReLU(), layers.GlobalAveragePooling2D(), layers.Dense(5)]
    >>> graphs = [Graph(keras.Sequential([keras.Input((8, 8, 3)), *network[:count]])) for count in (3, 4)]
    >>> [returns_features(graph, graph.output) for graph in graphs]
    [True, False]
    """
    if any(output is source for call in graph.calls for source in call.sources):
        return False
    edge, is_pooled = graph.producer(output), False
    if edge is not None and edge.path.rsplit("/", 1)[-1] == DECLARED_EMBEDDING:
        return True
    while edge is not None:
        operation = edge.original
        if isinstance(operation, NORMALIZATIONS) or _is_rectifier(operation):
            return True
        if has_kernel(operation):
            return len(edge.results[0].shape) > 2 and _contains_layers(operation)
        is_pooled = is_pooled or is_pooling(operation)
        if len(edge.sources) != 1:
            return is_pooled and isinstance(operation, (layers.Add, layers.Concatenate))
        edge = graph.producer(edge.sources[0])
    return False


def is_pooling(operation: Operation) -> bool:
    """Whether an operation reduces a map to a vector.

    >>> is_pooling(layers.Flatten())
    True
    """
    return isinstance(operation, POOLINGS) or type(operation).__name__ in ("Mean", "Max")


def has_kernel(operation: Operation) -> bool:
    """Whether an operation has a variable of two or more axes.

    >>> has_kernel(layers.ReLU())
    False
    """
    return any(len(variable.shape) > 1 for variable in getattr(operation, "weights", ()))


def _is_rectifier(operation: Operation) -> bool:
    name = getattr(getattr(operation, "activation", None), "__name__", type(operation).__name__)
    return name.lower().replace("_", "") in RECTIFIERS


def _contains_layers(operation: Operation) -> bool:
    return not isinstance(operation, layers.Wrapper) and len(sub_layers(operation)) > 1
