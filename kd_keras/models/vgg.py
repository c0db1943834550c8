"""VGG with BatchNorm, small images: Simonyan, Zisserman 2015, *Very Deep Convolutional Networks*, 1409.1556, table 1.

The form of the published distillation tables: one linear classifier that reads the mean of the last maps, instead of
three, and three poolings at 32 pixels, so that the maps of the last two stages are 4x4. `vgg8` has one convolution per
stage. The first of VGG's five stages, at full size, is the stem here, since published tables do not compare its map.
"""

from __future__ import annotations

import functools

import keras
from keras import layers

from kd_keras.models.base import classified, conv_bn, image_input
from kd_keras.networks.preprocessing import PixelStatistics


def vgg(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    convolutions: tuple[int, ...],
    name: str,
) -> keras.Model:
    """A VGG whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image; of 64 pixels or more, a fourth pooling comes before the last stage.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        convolutions: the number of convolutions of the stem and of each of the four stages.
        name: the model's name.

    >>> vgg8((32, 32, 3), 100).output_shape
    (None, 100)
    """
    inputs, x = image_input(input_shape, normalization)
    parts = ("stem", "stage1", "stage2", "stage3", "stage4")
    for part, count, width in zip(parts, convolutions, (64, 128, 256, 512, 512), strict=True):
        if part in parts[1:4] or (part == "stage4" and min(input_shape[:2]) >= 64):
            x = layers.MaxPooling2D(name=f"{part}_pool")(x)
        for number in range(1, count + 1):
            x = conv_bn(x, width, f"{part}_{number}", use_bias=True)
            x = layers.ReLU(name=f"{part}_out" if number == count else f"{part}_{number}_relu")(x)
    return classified(inputs, x, classes, name)


vgg8 = functools.partial(vgg, convolutions=(1, 1, 1, 1, 1), name="vgg8")
vgg11 = functools.partial(vgg, convolutions=(1, 1, 2, 2, 2), name="vgg11")
vgg13 = functools.partial(vgg, convolutions=(2, 2, 2, 2, 2), name="vgg13")
vgg16 = functools.partial(vgg, convolutions=(2, 2, 3, 3, 3), name="vgg16")
vgg19 = functools.partial(vgg, convolutions=(2, 2, 4, 4, 4), name="vgg19")
