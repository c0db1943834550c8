"""The images that a network reads: the shape of its input, and how images are resized to it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def find_input_shape(network: keras.Model) -> tuple | None:
    """The shape of a network's only input with the batch dimension, or `None` if it has several inputs or is unbuilt.

    >>> find_input_shape(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]))
    (None, 8, 8, 3)
    """
    shape = getattr(network, "input_shape", None)
    return shape if isinstance(shape, tuple) and not isinstance(shape[0], tuple) else None


def resize_to_input(network: keras.Model, images: Any) -> Any:
    """Resizes images to the fixed input size of a network, bilinearly, with antialiasing if they shrink.

    Args:
        network: the network that reads the images.
        images: `(B, H, W, C)`; any other input is returned unchanged.

    Returns:
        `(B, H', W', C)`, or `images` if they have the right size or the network reads any size.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> resize_to_input(network, ops.zeros((2, 4, 4, 3))).shape
    TensorShape([2, 8, 8, 3])
    """
    shape = find_input_shape(network)
    if shape is None or len(shape) != 4 or None in shape[1:3] or tuple(images.shape[1:3]) == shape[1:3]:
        return images
    shrinks = any(size > target for size, target in zip(images.shape[1:3], shape[1:3], strict=True))
    return ops.image.resize(images, shape[1:3], interpolation="bilinear", antialias=shrinks)


def reads_smaller_images(network: keras.Model, image_shape: tuple | None) -> bool:
    """Whether images `(B, H, W, C)` of a shape must shrink before a network can read them.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> reads_smaller_images(network, (None, 16, 16, 3)), reads_smaller_images(network, (None, 4, 4, 3))
    (True, False)
    """
    shape = find_input_shape(network)
    if shape is None or image_shape is None or not len(shape) == len(image_shape) == 4:
        return False
    return any(target and target < (size or 0) for target, size in zip(shape[1:3], image_shape[1:3], strict=True))
