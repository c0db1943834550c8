"""Finds layers that can be folded into a neighbor without a change of the predictions, and merges their weights.

A BatchNorm in inference is a scale s and an offset per channel, s (W x + b - mean) + beta with
s = gamma / sqrt(variance + epsilon), which equals one layer with the kernel s W and the bias s (b - mean) + beta. It is
therefore folded into the convolution or Dense layer before it.

A Normalization or Rescaling of the image is a scale a and an offset c per channel as well, W (a x + c) + b, which
equals one layer with the kernel a W and the bias b + W c. It is therefore folded into the convolution or Dense layer
after it, unless that layer pads with zeros: zeros around the normalized image differ from zeros around the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from kd_keras.networks.graph import Edge, Graph

FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)


class Affine(NamedTuple):
    """The scale and the offset by which a preprocessing layer changes each channel, float64.

    If the image is flattened afterwards, there is one of each for every pixel of every channel.
    """

    scale: np.ndarray
    offset: np.ndarray


class Foldings(NamedTuple):
    """What is folded, by the id of the layer with a kernel that absorbs it.

    Attributes:
        norms: the BatchNorm after the layer.
        inputs: the scale and the offset of the preprocessing before the layer.
        preprocessing: the ids of the preprocessing layers that are folded.
    """

    norms: dict[int, layers.BatchNormalization]
    inputs: dict[int, Affine]
    preprocessing: set[int]

    def absorbs(self, layer: layers.Layer) -> bool:
        """Whether a neighbor is folded into a layer."""
        return id(layer) in self.norms or id(layer) in self.inputs


def find_foldings(graph: Graph, *, preprocessing: bool) -> Foldings:
    """Finds the layers that can be folded: called once, and with one reader of their output.

    Args:
        graph: a replayed network.
        preprocessing: whether the normalization of the image is folded too.
    """
    calls = Counter(id(edge.original) for edge in graph.calls)
    readers = Counter(id(source) for edge in graph.calls for source in edge.sources)
    nested_outputs = [edge.results for edge in graph.edges if edge.operation is None]  # known by their models' names
    readers.update(id(tensor) for tensor in keras.tree.flatten([graph.output, nested_outputs]))

    def sole_producer(edge: Edge) -> Edge | None:
        """The call that produces the only input of a call, if it has no other call and its output no other reader."""
        producer = graph.producer(edge.sources[0]) if len(edge.sources) == 1 else None
        is_sole = producer is not None and calls[id(producer.original)] == 1 and readers[id(edge.sources[0])] == 1
        return producer if is_sole else None

    foldings = Foldings({}, {}, set())
    for edge in graph.calls:
        producer = sole_producer(edge) if calls[id(edge.original)] == 1 else None
        if producer is None:
            continue
        if _absorbs_norm(producer, edge):
            foldings.norms[id(producer.original)] = edge.original
        flattened = _flattens(producer) and type(edge.original) is layers.Dense
        first = sole_producer(producer) if flattened else producer
        affine = affine_of(first, flattened) if preprocessing and first is not None else None
        if first is not None and affine is not None and _absorbs_preprocessing(edge.original, affine):
            foldings.inputs[id(edge.original)] = affine
            foldings.preprocessing.add(id(first.original))
    return foldings


def affine_of(edge: Edge, flattened: bool) -> Affine | None:
    """The scale and the offset of a Normalization or a Rescaling of float32 images.

    Args:
        edge: a call of a layer.
        flattened: whether to give them for each value of the flattened image instead of each channel.

    Returns:
        `None` for another layer, and if they differ between the pixels of a channel.
    """
    layer, shape = edge.original, edge.results[0].shape[1:]
    target = shape if flattened else shape[-1:]
    if edge.sources[0].dtype != "float32" or None in target:
        return None
    if type(layer) is layers.Normalization and not layer.invert:
        scale = 1 / np.maximum(np.sqrt(np.array(layer.variance, "float64")), keras.config.epsilon())
        offset = -np.array(layer.mean, "float64") * scale
    elif type(layer) is layers.Rescaling:
        scale, offset = np.array(layer.scale, "float64"), np.array(layer.offset, "float64")
    else:
        return None
    try:
        scale, offset = (np.broadcast_to(_without_ones(values), target).ravel() for values in (scale, offset))
    except ValueError:  # they differ between the pixels of a channel
        return None
    return Affine(scale, offset)


def merged_weights(layer: layers.Layer, foldings: Foldings) -> list[np.ndarray]:
    """The kernel and the bias that replace those of a layer and of its folded neighbors; computed in float64."""
    kernel = np.array(layer.kernel, "float64")
    bias = np.zeros(1) if layer.bias is None else np.array(layer.bias, "float64")
    if id(layer) in foldings.inputs:
        scale, offset = foldings.inputs[id(layer)]
        bias = bias + (kernel * offset[:, None]).sum(tuple(range(kernel.ndim - 1)))
        kernel = kernel * scale[:, None]
    if id(layer) in foldings.norms:
        norm = foldings.norms[id(layer)]
        mean, variance = (np.array(values, "float64") for values in (norm.moving_mean, norm.moving_variance))
        scale = (1.0 if norm.gamma is None else np.array(norm.gamma, "float64")) / np.sqrt(variance + norm.epsilon)
        shape = kernel.shape[-2:] if isinstance(layer, layers.DepthwiseConv2D) else kernel.shape[-1:]
        kernel = kernel * scale.reshape(shape)
        bias = (bias - mean) * scale + (0.0 if norm.beta is None else np.array(norm.beta, "float64"))
    return [kernel, np.broadcast_to(bias, kernel.shape[-1:] if bias.size == 1 else bias.shape)]


def _flattens(edge: Edge) -> bool:
    return type(edge.original) is layers.Flatten and edge.original.data_format == "channels_last"


def _absorbs_norm(producer: Edge, edge: Edge) -> bool:
    """Whether a layer with a kernel can absorb the BatchNorm that follows it."""
    linear, norm, rank = producer.original, edge.original, len(edge.sources[0].shape)
    if type(norm) is not layers.BatchNormalization or not computes_plainly(linear):
        return False
    channels = 1 if getattr(linear, "data_format", None) == "channels_first" else rank - 1
    return linear.activation is keras.activations.linear and norm.axis % rank == channels


def computes_plainly(layer: layers.Layer) -> bool:
    """Whether a layer is one of `FOLDABLE` and uses its kernel as that does, also if it is of a subclass.

    A subclass may change `call`, or `convolution_op`, for example to standardize the kernel. One with the attribute
    `is_plain_convolution` only computes the convolution in another way.

    >>> computes_plainly(layers.Conv2D(2, 3)), computes_plainly(layers.Conv1D(2, 3))
    (True, False)
    """
    kind = next((kind for kind in FOLDABLE if isinstance(layer, kind)), None)
    if kind is None or type(layer).call is not kind.call:
        return False
    convolution = [getattr(cls, "convolution_op", None) for cls in (type(layer), kind)]
    return convolution[0] is convolution[1] or getattr(layer, "is_plain_convolution", False)


def _absorbs_preprocessing(layer: layers.Layer, affine: Affine) -> bool:
    """Whether a layer with a kernel can absorb the preprocessing before it."""
    if type(layer) is layers.Dense:
        return True
    if type(layer) is not layers.Conv2D or layer.groups != 1 or layer.data_format != "channels_last":
        return False
    pads_with_zeros = layer.padding != "valid" and set(layer.kernel_size) != {1}
    return not pads_with_zeros or not affine.offset.any()


def _without_ones(values: np.ndarray) -> np.ndarray:
    """An array without its leading axes of length 1."""
    shape: Sequence[int] = values.shape
    while shape and shape[0] == 1:
        shape = shape[1:]
    return values.reshape(shape)
