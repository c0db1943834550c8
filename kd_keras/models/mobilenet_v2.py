"""MobileNetV2 for small images: Sandler et al. 2018, *Inverted Residuals and Linear Bottlenecks*, 1801.04381, table 2.

The form of the published distillation tables: half width, the second stage at full resolution, an expansion
convolution in every block (even if it expands by 1), ReLU instead of the paper's ReLU6. The output of a bottleneck is
linear: it has no activation, and so no tap before its activation. The stages are the last bottlenecks of a resolution,
as the published tables compare them.
"""

from __future__ import annotations

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.models.base import classified, conv_bn, depthwise_bn, image_input
from kd_keras.networks.preprocessing import PixelStatistics

# expansion, channels at full width, blocks, stride of the first block
ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST = (2, 3, 5, 7)  # the last rows of each size


def mobilenet_v2(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    width: float = 0.5,
    name: str = "mobilenet_v2",
) -> keras.Model:
    """MobileNetV2 whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        width: the factor of the channels of every layer, at least 1/16; the 1280 channels of the last convolution grow
            only if it is above 1.
        name: the model's name.

    Raises:
        ValueError: if `width` leaves a layer without a channel.

    >>> mobilenet_v2((32, 32, 3), 100).output_shape
    (None, 100)
    """
    if int(16 * width) < 1:
        raise ValueError(explain_mismatch("a width of at least 1/16", repr(width)))
    inputs, x = image_input(input_shape, normalization)
    x = layers.ReLU(name="stem_out")(conv_bn(x, int(32 * width), "stem", strides=2))
    for row, (expansion, channels, blocks, first_strides) in enumerate(ROWS, start=1):
        for block in range(1, blocks + 1):
            strides = first_strides if block == 1 else 1
            x = _inverted_residual(x, expansion, int(channels * width), strides, f"bottleneck{row}_{block}")
        if row in LAST:
            x = layers.Identity(name=f"stage{LAST.index(row) + 1}_out")(x)
    x = layers.ReLU(name="head_out")(conv_bn(x, int(1280 * max(width, 1.0)), "head", kernel_size=1))
    return classified(inputs, x, classes, name)


def _inverted_residual(x: Tensor, expansion: int, width: int, strides: int, name: str) -> Tensor:
    shortcut = x
    x = conv_bn(x, expansion * x.shape[-1], f"{name}_expand", kernel_size=1)
    x = layers.ReLU(name=f"{name}_expand_relu")(x)
    x = depthwise_bn(x, f"{name}_depthwise", strides=strides)
    x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
    x = conv_bn(x, width, f"{name}_project", kernel_size=1)
    if strides == 1 and shortcut.shape[-1] == width:
        x = layers.Add(name=f"{name}_sum")([x, shortcut])
    return x
