"""Matches the channels and the classes of a dataset to those of a network."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def to_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Images `(B, H, W, 1 or 3)` as gray images for one channel or as color images for three.

    >>> to_channels(tf.zeros((2, 4, 4, 1)), 3).shape.as_list()
    [2, 4, 4, 3]
    """
    if images.shape[-1] == channels:
        return images
    return tf.image.grayscale_to_rgb(images) if channels == 3 else tf.image.rgb_to_grayscale(images)


def order_classes(network: Sequence[str] | None, data: Sequence[str] | None) -> list[int] | None:
    """For each class of the data its position among a network's classes; `None` if no reordering is needed.

    Args:
        network: the names of the network's classes in the order of its outputs, or `None` if they are not known.
        data: the names of the data's classes in the order of the labels, or `None`.

    Raises:
        ValueError: if the network lacks a class of the data.

    >>> order_classes(["dog", "cat"], ["cat", "dog"]), order_classes(["cat"], ["cat"])
    ([1, 0], None)
    """
    if not network or not data or list(network) == list(data):
        return None
    missing = sorted(set(data) - set(network))
    if missing:
        raise ValueError(
            f"The network must have all classes of the images, but of these it lacks {missing}: it has {list(network)}."
            " Use a network that was trained on these classes."
        )
    return [list(network).index(name) for name in data]
