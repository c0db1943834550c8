"""The view of segmentation: a random scale, then a random crop of the image's own size."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kd_keras.data.labels import Window
from kd_keras.errors import shorten


def scale_and_crop(
    image: tf.Tensor, seed: tf.Tensor, scale: tuple[float, float] = (0.5, 2.0)
) -> tuple[tf.Tensor, Window]:
    """Resizes an image by a random factor, and crops or pads it to its original size at a random position.

    The factor is uniform in `scale`, 0.5 to 2 in the published recipes (Chen et al. 2017, 1706.05587, section 4.1). A
    smaller image lies at a random position and the rest is 0; the authors' code pads below and at the right.

    Args:
        image: `(H, W, C)` uint8, or floating point.
        seed: `(2,)` integers.
        scale: the smallest and the largest factor, above 0.

    Returns:
        The view, of the image's shape and type, and the part of the image that it shows.

    >>> view, window = scale_and_crop(tf.ones((8, 6, 1), tf.uint8), [1, 2])
    >>> view.shape, view.dtype
    (TensorShape([8, 6, 1]), tf.uint8)
    """
    image = tf.convert_to_tensor(image)
    draws = tf.random.stateless_uniform((3,), seed)
    sides = tf.shape(image)[:2]
    factor = scale[0] + draws[0] * (scale[1] - scale[0])
    scaled = tf.maximum(tf.cast(tf.round(factor * tf.cast(sides, tf.float32)), tf.int32), 1)
    resized = tf.image.resize(image, scaled, antialias=True)
    resized = tf.cast(tf.round(resized) if image.dtype.is_integer else resized, image.dtype)
    room = scaled - sides  # negative if the view is larger than the image
    # floor(u * n) is uniform over 0 to n - 1, because u < 1 even after rounding.
    start = tf.cast(tf.floor(draws[1:] * tf.cast(tf.abs(room) + 1, tf.float32)), tf.int32)
    missing = tf.maximum(-room, 0)
    before = tf.where(room < 0, start, 0)
    padded = tf.pad(resized, [[before[0], missing[0] - before[0]], [before[1], missing[1] - before[1]], [0, 0]])
    corner = tf.where(room < 0, 0, start)
    view = tf.slice(padded, tf.concat([corner, [0]], 0), tf.shape(image))
    begin = tf.cast(corner - before, tf.float32)
    edges = tf.concat([begin, begin + tf.cast(sides, tf.float32)], 0) / tf.cast(tf.tile(scaled, [2]), tf.float32)
    return tf.ensure_shape(view, image.shape), Window(edges, tf.constant(False))


def check_scale(pair: Any) -> None:
    """Checks the smallest and the largest factor.

    Raises:
        ValueError: if they are not two numbers above 0 in this order.
    """
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(n, (int, float)) for n in pair)
    if not is_pair or not 0 < pair[0] <= pair[1] < math.inf:
        raise ValueError(
            f"scale must be (smallest, largest) above 0, such as (0.5, 2.0), but received {shorten(pair)}."
        )
