"""The order of the axes of maps: channels_last `(B, H, W, C)`, or channels_first `(B, C, H, W)` as in many converted
networks."""

from __future__ import annotations

from collections.abc import Iterable

import keras
from keras import layers

from kd_keras.networks.graph import Edge, Operation, functional, is_walkable
from kd_keras.private_api import sub_layers

LAST_AXIS = (layers.Dense, layers.EinsumDense, layers.MultiHeadAttention, layers.LayerNormalization)


def find_channels_first(calls: Iterable[Edge]) -> set[int]:
    """The ids of the tensors whose channels are axis 1.

    A layer with a data format decides for its results. Other layers keep the order of what they read, except that a
    permutation of the axes may move the channels.

    Args:
        calls: the calls of operations, in topological order.

    >>> from kd_keras.networks.graph import Graph
    >>> convolution = layers.Conv2D(4, 3, data_format="channels_first")
    >>> network = keras.Sequential([keras.Input((3, 8, 8)), convolution, layers.ReLU(), layers.Permute((2, 3, 1))])
    >>> calls = Graph(network).calls
    >>> first = find_channels_first(calls)
    >>> [id(call.results[0]) in first for call in calls]
    [True, True, False]
    """
    first: set[int] = set()
    for call in calls:
        rank = len(call.results[0].shape) if call.results else 0
        if _returns_channels_first(call, any(id(source) in first for source in call.sources), rank):
            first.update(id(result) for result in call.results if len(result.shape) > 2)
    return first


def reads_channels_first(network: keras.Model) -> bool:
    """Whether a network reads images `(B, C, H, W)`.

    >>> layer = layers.Conv2D(4, 3, data_format="channels_first")
    >>> reads_channels_first(keras.Sequential([keras.Input((3, 8, 8)), layers.Rescaling(1 / 255), layer]))
    True
    """
    if not is_walkable(network):
        return contains_channels_first(network)
    for operation in functional(network).operations:
        order = permutation_of(operation, 4)
        if order is not None:
            return order == [0, 2, 3, 1]
        if isinstance(operation, keras.Model):
            return reads_channels_first(operation)
        data_format = _data_format(operation)
        if data_format:
            return data_format == "channels_first"
    return False


def contains_channels_first(network: keras.layers.Layer) -> bool:
    """Whether a layer inside a network, at any depth, works in channels_first.

    >>> contains_channels_first(layers.Conv2D(4, 3, data_format="channels_first"))
    True
    """
    return any(getattr(layer, "data_format", None) == "channels_first" for layer in sub_layers(network))


def _returns_channels_first(call: Edge, reads_it: bool, rank: int) -> bool:
    operation = call.original
    order = permutation_of(operation, rank)
    if order is not None:
        channels = order.index(1 if reads_it else rank - 1)
        return channels != rank - 1 if reads_it else rank == 4 and channels == 1
    data_format = _data_format(operation)
    if data_format:
        return data_format == "channels_first"
    if isinstance(operation, (layers.BatchNormalization, layers.GroupNormalization)):
        return reads_it or (rank == 4 and operation.axis == 1)
    return reads_it and not isinstance(operation, LAST_AXIS)


def _data_format(operation: Operation) -> str | None:
    """The data format of an operation, or of the layers inside it; `None` if it has none."""
    own = getattr(operation, "data_format", None)
    if own or not isinstance(operation, layers.Layer):
        return own
    inside = [getattr(layer, "data_format", None) for layer in sub_layers(operation)[1:]]
    return next(filter(None, inside), None)


def permutation_of(operation: Operation, rank: int) -> list[int] | None:
    """For each axis of the result of a permutation the axis that it was; `None` if it is another operation."""
    if type(operation).__name__ not in ("Permute", "Transpose", "Moveaxis", "Swapaxes"):
        return None
    return [size - 1 for size in operation.compute_output_spec(keras.KerasTensor(range(1, rank + 1))).shape]
