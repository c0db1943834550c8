"""The first layers of a network, which turn pixel values from 0 to 255 into what its first convolution expects.

Images travel as float32 pixel values `(B, H, W, C)` from 0 to 255, and every network that the project builds owns its
preprocessing. These are stock Keras layers and operations without variables, in float32 under every dtype policy, so
that a `.keras` file is complete and loads without kd_keras.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, tree

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.networks.graph import functional
from kd_keras.private_api import forget_calls, nodes_in_order, output_structure


class PixelStatistics(NamedTuple):
    """The mean and the standard deviation of pixel values, in units of 0 to 255.

    Attributes:
        mean: one number, or one for each channel.
        std: as many numbers, above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, channels: int) -> PixelStatistics:
        """The statistics with one number for each channel.

        Raises:
            ValueError: if their number is neither 1 nor the number of channels, a value is not finite, or a standard
                deviation is not above 0.

        >>> PixelStatistics((127.5,), (63.75,)).for_channels(3).mean
        (127.5, 127.5, 127.5)
        """
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, channels):
            expected = f"pixel statistics of 1 or {channels} numbers, for images of {channels} channels"
            raise ValueError(explain_mismatch(expected, f"{len(self.mean)} means and {len(self.std)} deviations"))
        if not all(math.isfinite(value) for value in self.mean) or not all(0 < value < math.inf for value in self.std):
            expected = "finite means and standard deviations above 0 of the pixels"
            raise ValueError(explain_mismatch(expected, f"mean={self.mean} and std={self.std}"))
        repeats = channels // len(self.mean)
        return PixelStatistics(tuple(map(float, self.mean)) * repeats, tuple(map(float, self.std)) * repeats)


SYMMETRIC = PixelStatistics((127.5,), (63.75,))  # pixels from 0 to 255 become numbers from -2 to 2


def normalized(images: Tensor, statistics: PixelStatistics | None = None) -> Tensor:
    """Subtracts the mean and divides by the standard deviation, in a layer called `"normalization"`.

    Args:
        images: the symbolic input `(B, H, W, C)` of a network, pixel values from 0 to 255.
        statistics: the constants of the layer, which its configuration contains; by default a mean of 127.5 and a
            standard deviation of 63.75.

    >>> images = keras.Input((8, 8, 3))
    >>> network = keras.Model(images, normalized(images, PixelStatistics((100.0,), (50.0,))))
    >>> network(keras.ops.full((1, 8, 8, 3), 150.0)).numpy().max().item()
    1.0
    """
    mean, std = (statistics or SYMMETRIC).for_channels(images.shape[-1])
    variance = [value**2 for value in std]
    return layers.Normalization(mean=list(mean), variance=variance, dtype="float32", name="normalization")(images)


class PixelMap(NamedTuple):
    """A preprocessing that treats every pixel alike: channel c becomes `scale[c] * pixel[order[c]] + offset[c]`.

    Attributes:
        order: for each channel the position of the channel that it reads.
        scale: what each channel is multiplied by.
        offset: what is added to each channel afterwards.
    """

    order: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def is_identity(self) -> bool:
        """Whether the map changes nothing."""
        in_order = self.order == tuple(range(len(self.order)))
        return in_order and set(self.scale) == {1.0} and set(self.offset) == {0.0}

    def for_channels(self, channels: int) -> PixelMap:
        """The same map if it has as many channels, else one with the mean scale and the mean offset for all channels.

        >>> PixelMap((2, 1, 0), (1.0, 1.0, 1.0), (-1.0, -2.0, -3.0)).for_channels(1)
        PixelMap(order=(0,), scale=(1.0,), offset=(-2.0,))
        """
        if channels == len(self.order):
            return self
        scale, offset = (float(np.mean(values)) for values in (self.scale, self.offset))
        return PixelMap(tuple(range(channels)), (scale,) * channels, (offset,) * channels)

    def apply(self, images: Tensor) -> Tensor:
        """Applies the map to symbolic images `(B, H, W, C)`, as Keras layers."""
        if self.order != tuple(range(len(self.order))):
            images = keras.ops.take(images, list(self.order), axis=-1)
        if set(self.scale) == {1.0} and set(self.offset) == {0.0}:
            return images
        scale, offset = (values[0] if len(set(values)) == 1 else list(values) for values in (self.scale, self.offset))
        return layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")(images)


def probe(preprocess: Callable[[np.ndarray], Any], channels: int = 3) -> PixelMap:
    """Finds the `PixelMap` that equals a function of images `(B, H, W, C)`, from its results for a few pixels.

    Args:
        preprocess: a function of a float64 array `(B, 1, 1, C)` of pixel values from 0 to 255.
        channels: the number of channels C.

    Raises:
        ValueError: if the function does not treat each pixel alike by reordering, scaling and shifting its channels.

    >>> probe(lambda images: images[..., ::-1] / 127.5 - 1).order
    (2, 1, 0)
    """

    def results(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(preprocess(pixels[:, None, None].copy()), "float64")[:, 0, 0]

    black = np.zeros((1, channels))
    offset = results(black)[0]
    slopes = (results(255.0 * np.eye(channels)) - offset) / 255  # (input channel, output channel)
    order = np.abs(slopes).argmax(0)
    scale = slopes[order, np.arange(channels)]
    pixels = np.random.default_rng(0).uniform(0, 255, (8, channels))
    if not np.allclose(results(pixels), pixels[:, order] * scale + offset, rtol=1e-5, atol=1e-5 * np.abs(scale).max()):
        expected = "a preprocessing that reorders, scales and shifts the channels of each pixel"
        advice = "put a preprocessing of another kind into the network as a layer"
        raise ValueError(explain_mismatch(expected, "a function that does something else", advice))
    scale, offset = (tuple(float(f"{value:.10g}") for value in values) for values in (scale, offset))
    return PixelMap(tuple(int(channel) for channel in order), scale, offset)


def prepend(network: keras.Model, pixel_map: PixelMap) -> keras.Model:
    """Puts a preprocessing in front of a network and returns a model of the same layers, names and paths.

    The layers move into the new model: do not use `network` afterwards.

    Args:
        network: a Functional model of one image input.
        pixel_map: the preprocessing.

    Raises:
        ValueError: if the network does not have exactly one input.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv")])
    >>> symmetric = PixelMap((0, 1, 2), (1 / 127.5,) * 3, (-1.0,) * 3)
    >>> [layer.name for layer in prepend(network, symmetric).layers]
    ['image', 'preprocessing', 'conv']
    """
    graph = functional(network)
    image = keras.Input(graph.inputs[0].shape[1:], name="image")
    return continue_from(pixel_map.apply(image), image, graph)


def continue_from(tensor: Tensor, image: Tensor, network: keras.Model) -> keras.Model:
    """A network that reads a tensor instead of its input. Its layers move into the new model.

    Args:
        tensor: what the network reads, a function of the image.
        image: the input of the new model.
        network: a Functional model of one image input.

    Raises:
        ValueError: if the network does not have exactly one input.

    >>> network = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(4, 3, name="conv")])
    >>> image = keras.Input((8, 8, 3), name="image")
    >>> continue_from(layers.AveragePooling2D(2)(image), image, network).output_shape
    (None, 2, 2, 4)
    """
    graph = functional(network)
    if len(graph.inputs) != 1:
        raise ValueError(explain_mismatch(f"one input of {network.name!r}", f"{len(graph.inputs)} inputs"))
    values = {id(graph.inputs[0]): tensor}
    nodes = [node for node in nodes_in_order(graph) if not node.is_input]
    for node in nodes:  # so that `layer.output` is a tensor of the new graph
        forget_calls(node.operation)
    for node in nodes:
        args, kwargs = node.arguments.fill_in(values)
        results = tree.flatten(node.operation(*args, **kwargs))
        values.update(zip(map(id, node.outputs), results, strict=True))
    outputs = tree.map_structure(lambda tensor: values[id(tensor)], output_structure(graph))
    return keras.Model(image, outputs, name=network.name)
