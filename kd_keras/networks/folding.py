"""Which layers can be folded into a neighbor without a change of results, and the weights that they leave.

A BatchNorm in inference is a scale s and an offset per channel, s (W x + b - mean) + beta with
s = gamma / sqrt(variance + epsilon), which is one layer with the kernel s W and the bias s (b - mean) + beta. So it is
folded into the convolution or Dense layer before it.

A Normalization or Rescaling of the image is a scale a and an offset c per channel as well, W (a x + c) + b, which is
one layer with the kernel a W and the bias b + W c. So it is folded into the convolution or Dense layer after it, unless
that layer pads with zeros: a zero of the normalized image is another value than a zero of the image itself.
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
    """What a preprocessing layer does to each channel, or to each pixel if the image is flattened afterwards: it
    multiplies by the scale and adds the offset, float64."""

    scale: np.ndarray
    offset: np.ndarray


class Foldings(NamedTuple):
    """What is folded, by the identity of the layer with a kernel that takes it up.

    Attributes:
        norms: the BatchNorm after the layer.
        inputs: what the preprocessing before the layer does.
        preprocessing: the identities of the layers that are folded away in front.
    """

    norms: dict[int, layers.BatchNormalization]
    inputs: dict[int, Affine]
    preprocessing: set[int]

    def takes_up(self, layer: layers.Layer) -> bool:
        return id(layer) in self.norms or id(layer) in self.inputs


def find_foldings(graph: Graph, *, preprocessing: bool) -> Foldings:
    """The layers that can be folded, each called once and read by nothing else.

    Args:
        graph: a replayed network.
        preprocessing: whether the normalization of the image is folded too.
    """
    calls = Counter(id(edge.original) for edge in graph.calls)
    readers = Counter(id(source) for edge in graph.calls for source in edge.sources)
    nested_outputs = [edge.results for edge in graph.edges if edge.operation is None]  # known by their models' names
    readers.update(id(tensor) for tensor in keras.tree.flatten([graph.output, nested_outputs]))

    def only_maker(edge: Edge) -> Edge | None:
        """What makes the one source of a call, if it is called once and nothing else reads its result."""
        maker = graph.maker(edge.sources[0]) if len(edge.sources) == 1 else None
        alone = maker is not None and calls[id(maker.original)] == 1 and readers[id(edge.sources[0])] == 1
        return maker if alone else None

    foldings = Foldings({}, {}, set())
    for edge in graph.calls:
        maker = only_maker(edge) if calls[id(edge.original)] == 1 else None
        if maker is None:
            continue
        if _takes_up_norm(maker, edge):
            foldings.norms[id(maker.original)] = edge.original
        flattened = _flattens(maker) and type(edge.original) is layers.Dense
        first = only_maker(maker) if flattened else maker
        affine = affine_of(first, flattened) if preprocessing and first is not None else None
        if first is not None and affine is not None and _takes_up_preprocessing(edge.original, affine):
            foldings.inputs[id(edge.original)] = affine
            foldings.preprocessing.add(id(first.original))
    return foldings


def affine_of(edge: Edge, flattened: bool) -> Affine | None:
    """What a Normalization or a Rescaling does to the channels of float32 images, or to each flattened pixel.

    Returns `None` for another layer, and if it is not the same for all places of an image.
    """
    layer, shape = edge.original, edge.results[0].shape[1:]
    to = shape if flattened else shape[-1:]
    if edge.sources[0].dtype != "float32" or None in to:
        return None
    if type(layer) is layers.Normalization and not layer.invert:
        scale = 1 / np.maximum(np.sqrt(np.array(layer.variance, "float64")), keras.config.epsilon())
        offset = -np.array(layer.mean, "float64") * scale
    elif type(layer) is layers.Rescaling:
        scale, offset = np.array(layer.scale, "float64"), np.array(layer.offset, "float64")
    else:
        return None
    try:
        scale, offset = (np.broadcast_to(_without_ones(values), to).ravel() for values in (scale, offset))
    except ValueError:  # it is not the same for all places
        return None
    return Affine(scale, offset)


def merged_weights(layer: layers.Layer, foldings: Foldings) -> list[np.ndarray]:
    """The kernel and the bias that do what a layer and its folded neighbors did; computed in float64."""
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


def _takes_up_norm(maker: Edge, edge: Edge) -> bool:
    """Whether a layer with a kernel takes up the BatchNorm that follows it."""
    linear, norm, rank = maker.original, edge.original, len(edge.sources[0].shape)
    if type(norm) is not layers.BatchNormalization or type(linear) not in FOLDABLE:
        return False
    channels = 1 if getattr(linear, "data_format", None) == "channels_first" else rank - 1
    return linear.activation is keras.activations.linear and norm.axis % rank == channels


def _takes_up_preprocessing(layer: layers.Layer, affine: Affine) -> bool:
    """Whether a layer with a kernel takes up the preprocessing before it."""
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
