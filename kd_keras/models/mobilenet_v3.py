"""MobileNetV3-Small for small images: Howard et al. 2019, *Searching for MobileNetV3*, 1905.02244, table 2.

The layers of the paper with strides for 32 pixels: the stem and the first block keep the size, so that three halvings
leave 4x4. Bottlenecks are linear, and the taps are as `mobilenet_v2.py` describes them.
"""

from __future__ import annotations

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import check_number
from kd_keras.models.base import conv_bn, depthwise_bn, image_input
from kd_keras.networks.preprocessing import PixelStatistics

# kernel, channels of the expansion and of the output at full width, squeeze and excitation, activation, stride
BLOCKS = (
    (3, 16, 16, True, "relu", 1),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
)
LAST = (1, 3, 8, 11)  # the last blocks of each size


def mobilenet_v3_small(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    width: float = 1.0,
    dropout: float = 0.2,
    name: str = "mobilenet_v3_small",
) -> keras.Model:
    """MobileNetV3-Small whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        width: the factor of the blocks' channels, above 0, rounded to multiples of 8. The stem keeps 16 channels; the
            1024 units of the hidden layer grow only if it is above 1.
        dropout: the rate in [0, 1) of the dropout of the embedding.
        name: the model's name.

    Raises:
        TypeError: if `width` is not a number.
        ValueError: if it is not above 0.

    >>> mobilenet_v3_small((32, 32, 3), 100).output_shape
    (None, 100)
    """
    check_number(name, "width", width, above=0)
    inputs, x = image_input(input_shape, normalization)
    x = _active(conv_bn(x, 16, "stem"), "hard_swish", "stem_out")
    for number, (kernel, expanded, channels, squeezed, activation, strides) in enumerate(BLOCKS, start=1):
        inner = _rounded(x.shape[-1] * expanded / BLOCKS[number - 2][2]) if number > 1 else None
        channels = _rounded(channels * width)
        x = _bottleneck(x, kernel, inner, channels, squeezed, activation, strides, f"block{number}")
        if number in LAST:
            x = layers.Identity(name=f"stage{LAST.index(number) + 1}_out")(x)
    x = _active(conv_bn(x, _rounded(6 * x.shape[-1]), "head", kernel_size=1), "hard_swish", "head_out")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = _active(layers.Dense(_rounded(1024 * max(width, 1.0)), name="hidden")(x), "hard_swish", "embedding_out")
    x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


def _bottleneck(
    x: Tensor, kernel: int, expanded: int | None, width: int, squeezed: bool, activation: str, strides: int, name: str
) -> Tensor:
    shortcut = x
    if expanded:
        x = _active(conv_bn(x, expanded, f"{name}_expand", kernel_size=1), activation, f"{name}_expand_out")
    x = depthwise_bn(x, f"{name}_depthwise", kernel_size=kernel, strides=strides)
    x = _active(x, activation, f"{name}_depthwise_out")
    if squeezed:
        x = _squeezed_and_excited(x, f"{name}_squeeze")
    x = conv_bn(x, width, f"{name}_project", kernel_size=1)
    if strides == 1 and shortcut.shape[-1] == width:
        x = layers.Add(name=f"{name}_sum")([x, shortcut])
    return x


def _squeezed_and_excited(x: Tensor, name: str) -> Tensor:
    """Squeeze and excitation: multiplies each channel by a factor computed from the means of all channels."""
    means = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    means = layers.Conv2D(_rounded(x.shape[-1] / 4), 1, activation="relu", name=f"{name}_reduce")(means)
    factors = layers.Conv2D(x.shape[-1], 1, activation="hard_sigmoid", name=f"{name}_factors")(means)
    return layers.Multiply(name=f"{name}_out")([x, factors])


def _active(x: Tensor, activation: str, name: str) -> Tensor:
    return layers.Activation(activation, name=name)(x)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and at least nine tenths of the number."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
