"""RandAugment: a few random operations of one strength, as a pure function of the image and a seed.

An operation maps an image `(H, W, C)` float32 in 0..1 and a level of -1 to 1 to an image of the same shape, which the
caller clips to 0..1. Pixels from outside the image are zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

Operation: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def rand_augment(image: tf.Tensor, seed: tf.Tensor, layers: int = 2, magnitude: float = 9) -> tf.Tensor:
    """Applies `layers` operations drawn from fourteen, all of one `magnitude` from 0 to 10.

    Cubuk et al. 2019 (https://arxiv.org/abs/1909.13719, section 3). The ranges are those of AutoAugment
    (https://arxiv.org/abs/1805.09501) at magnitude 10: 30 degrees, shear 0.3, translation 0.45 of the side, 4 bits,
    factors 0.1 and 1.9. Signs are drawn at random. Keras's layer of this name has a random state and therefore
    cannot repeat the view of one image.

    Args:
        image: `(H, W, C)`, uint8 in 0..255 or floating point in 0..1.
        seed: `(2,)` integer.
        layers: the number of operations, at least 1.
        magnitude: their strength, 0 to 10.

    Returns:
        An image of the same shape, type and range.

    >>> rand_augment(tf.zeros((8, 8, 3), tf.uint8), [1, 2]).dtype
    tf.uint8
    """
    image = tf.convert_to_tensor(image)
    view = tf.image.convert_image_dtype(image, tf.float32)
    for layer_seed in tf.unstack(tf.random.split(seed, layers)):
        draws = tf.random.stateless_uniform((2,), layer_seed)
        level = tf.where(draws[1] < 0.5, -1.0, 1.0) * magnitude / 10
        operations = [functools.partial(operation, view, level) for operation in OPERATIONS]
        number = tf.cast(tf.floor(draws[0] * len(OPERATIONS)), tf.int32)
        view = tf.clip_by_value(tf.switch_case(number, operations), 0.0, 1.0)
        view = tf.ensure_shape(view, image.shape)
    if image.dtype.is_integer:
        return tf.cast(tf.round(view * image.dtype.max), image.dtype)
    return tf.cast(view, image.dtype)


def identity(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Changes nothing."""
    return tf.identity(image)


def auto_contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to the full range."""
    low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    return tf.where(high > low, tf.math.divide_no_nan(image - low, high - low), image)


def equalize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Makes the histogram of each channel as even as possible."""

    def equalize_channel(values: tf.Tensor) -> tf.Tensor:
        bins = tf.cast(tf.round(values * 255), tf.int32)
        cumulative = tf.cumsum(tf.math.bincount(bins, minlength=256, maxlength=256, dtype=tf.float32))
        lowest = cumulative[tf.reduce_min(bins)]
        spread = tf.math.divide_no_nan(cumulative - lowest, cumulative[-1] - lowest)
        return tf.where(cumulative[-1] > lowest, tf.gather(spread, bins), values)

    return tf.stack([equalize_channel(image[..., number]) for number in range(image.shape[-1])], -1)


def solarize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Inverts the pixels above a threshold."""
    return tf.where(image < 1 - tf.abs(level), image, 1 - image)


def posterize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Clears the lowest 0 to 4 of 8 bits."""
    step = 2 ** tf.round(4 * tf.abs(level))
    return tf.floor(tf.round(image * 255) / step) * step / 255


def color(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Changes the saturation of a color image."""
    if image.shape[-1] != 3:
        return tf.identity(image)
    gray = tf.image.rgb_to_grayscale(image)
    return gray + (1 + 0.9 * level) * (image - gray)


def contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Scales the distance of each channel from its mean."""
    return tf.image.adjust_contrast(image, 1 + 0.9 * level)


def brightness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Scales all pixels."""
    return image * (1 + 0.9 * level)


def sharpness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Scales the distance from a smoothed image."""
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32)[..., None, None] / 13
    padded = tf.pad(image, ((1, 1), (1, 1), (0, 0)), "SYMMETRIC")
    blurred = tf.nn.depthwise_conv2d(padded[None], tf.repeat(kernel, image.shape[-1], 2), (1, 1, 1, 1), "VALID")[0]
    return blurred + (1 + 0.9 * level) * (image - blurred)


def rotate(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Rotates by up to 30 degrees."""
    angle = level * math.pi / 6
    return _warp(image, [(tf.cos(angle), -tf.sin(angle)), (tf.sin(angle), tf.cos(angle)), (0, 0)])


def shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Moves each row by up to 0.3 of its distance from the center."""
    return _warp(image, [(1, 0.3 * level), (0, 1), (0, 0)])


def shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Moves each column by up to 0.3 of its distance from the center."""
    return _warp(image, [(1, 0), (0.3 * level, 1), (0, 0)])


def translate_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Moves the image sideways by up to 0.45 of its width."""
    return _warp(image, [(1, 0), (0, 1), (0.45 * level * tf.cast(tf.shape(image)[1], tf.float32), 0)])


def translate_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Moves the image up or down by up to 0.45 of its height."""
    return _warp(image, [(1, 0), (0, 1), (0, 0.45 * level * tf.cast(tf.shape(image)[0], tf.float32))])


def _warp(image: tf.Tensor, rows: list) -> tf.Tensor:
    """Applies an affine transformation around the center.

    With `rows` ((a, b), (c, d), (e, f)), the output at (x, y) is the input at (a x + b y + e, c x + d y + f).
    """
    (a, b), (c, d), (e, f) = rows
    middle_y, middle_x = tf.unstack((tf.cast(tf.shape(image)[:2], tf.float32) - 1) / 2)
    matrix = [a, b, middle_x + e - a * middle_x - b * middle_y, c, d, middle_y + f - c * middle_x - d * middle_y, 0, 0]
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([tf.cast(number, tf.float32) for number in matrix])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return warped[0]


# A change of the order changes the views of every seed.
OPERATIONS: tuple[Operation, ...] = (
    identity,
    auto_contrast,
    equalize,
    rotate,
    solarize,
    color,
    posterize,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
