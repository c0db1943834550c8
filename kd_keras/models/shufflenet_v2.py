"""ShuffleNet V2: Ma et al. 2018, *Practical Guidelines for Efficient CNN Architecture Design*, 1807.11164, table 5.

`shufflenet_v2` is for small images, as the published distillation tables use it: its stem is a 1x1 convolution that
does not change the size. `shufflenet_v2_imagenet` is the network of the paper, whose stem and pooling quarter the size.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.models.base import channel_shuffle, classified, conv_bn, depthwise_bn, image_input
from kd_keras.networks.preprocessing import PixelStatistics

# width: channels of the three stages and of the last convolution (table 5)
WIDTHS = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024), 2.0: (244, 488, 976, 2048)}
UNITS = (4, 8, 4)


def shufflenet_v2(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    width: float = 1.0,
    name: str = "shufflenet_v2",
) -> keras.Model:
    """ShuffleNet V2 for small images, whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        width: 0.5, 1, 1.5 or 2, which decides on the channels.
        name: the model's name.

    Raises:
        ValueError: if the paper does not have that width.

    >>> shufflenet_v2((32, 32, 3), 100, width=0.5).output_shape
    (None, 100)
    """
    inputs, x = image_input(input_shape, normalization)
    x = layers.ReLU(name="stem_out")(conv_bn(x, 24, "stem", kernel_size=1))
    return _stages(inputs, x, classes, width, name)


def shufflenet_v2_imagenet(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    width: float = 1.0,
    name: str = "shufflenet_v2_imagenet",
) -> keras.Model:
    """ShuffleNet V2 as in the paper, made for 224 pixels, whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        width: 0.5, 1, 1.5 or 2, which decides on the channels.
        name: the model's name.

    Raises:
        ValueError: if the paper does not have that width.

    >>> shufflenet_v2_imagenet((64, 64, 3), 1000).count_params() > 2_270_000
    True
    """
    inputs, x = image_input(input_shape, normalization)
    x = layers.ReLU(name="stem_out")(conv_bn(x, 24, "stem", strides=2))
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    return _stages(inputs, x, classes, width, name)


def _stages(inputs: Tensor, x: Tensor, classes: int, width: float, name: str) -> keras.Model:
    if width not in WIDTHS:
        raise ValueError(explain_mismatch(f"{name}(width=...) one of {', '.join(map(str, WIDTHS))}", repr(width)))
    *channels, last = WIDTHS[width]
    for stage, (units, stage_width) in enumerate(zip(UNITS, channels, strict=True), start=1):
        for unit in range(1, units + 1):
            label = f"stage{stage}_unit{unit}"
            halves = (_reduced if unit == 1 else _carried)(x, stage_width // 2, label)
            x = layers.Concatenate(name=f"{label}_joined")(halves)
            x = channel_shuffle(x, 2, f"stage{stage}_out" if unit == units else f"{label}_out")
    x = layers.ReLU(name="head_out")(conv_bn(x, last, "head", kernel_size=1))
    return classified(inputs, x, classes, name)


def _carried(x: Tensor, width: int, name: str) -> list:
    """Half of the channels unchanged, and the other half convolved."""
    unchanged, x = ops.split(x, 2, axis=-1)
    return [unchanged, _branch(x, width, 1, name)]


def _reduced(x: Tensor, width: int, name: str) -> list:
    """Two convolutions of all channels to half the size."""
    left = depthwise_bn(x, f"{name}_left_depthwise", strides=2)
    left = layers.ReLU(name=f"{name}_left_relu")(conv_bn(left, width, f"{name}_left", kernel_size=1))
    return [left, _branch(x, width, 2, name)]


def _branch(x: Tensor, width: int, strides: int, name: str) -> Tensor:
    x = layers.ReLU(name=f"{name}_1_relu")(conv_bn(x, width, f"{name}_1", kernel_size=1))
    x = depthwise_bn(x, f"{name}_depthwise", strides=strides)
    return layers.ReLU(name=f"{name}_2_relu")(conv_bn(x, width, f"{name}_2", kernel_size=1))
