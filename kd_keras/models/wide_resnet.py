"""Wide residual networks: Zagoruyko, Komodakis 2016, *Wide Residual Networks*, 1605.07146, table 1.

`wrn_16_2` is 16 layers deep and twice as wide as a residual network of 16 channels. BatchNorm and ReLU come before each
convolution, so that a stage's output, `stage1_out`, is a sum without activation, and `"stages:pre"` are the maps after
the BatchNorm that follows it. A shortcut that changes the shape reads the activated map.
"""

from __future__ import annotations

import functools

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.models.base import batch_norm, classified, convolution, image_input
from kd_keras.networks.preprocessing import PixelStatistics


def wrn(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    blocks: int,
    width: int,
    name: str,
) -> keras.Model:
    """A wide residual network whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        blocks: blocks of each of the three stages, (depth - 4) / 6.
        width: the factor of the channels 16, 32 and 64.
        name: the model's name.

    >>> wrn_16_1((32, 32, 3), 10).output_shape
    (None, 10)
    """
    inputs, x = image_input(input_shape, normalization)
    x = convolution(x, 16, "stem_out")
    for stage, channels in enumerate((16, 32, 64), start=1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            end = f"stage{stage}_out" if block == blocks else f"stage{stage}_block{block}_out"
            x = _block(x, channels * width, strides, f"stage{stage}_block{block}", end)
    x = layers.ReLU(name="head_relu")(batch_norm(x, "head_bn"))
    return classified(inputs, x, classes, name)


def _block(x: Tensor, width: int, strides: int, name: str, end: str) -> Tensor:
    active = layers.ReLU(name=f"{name}_1_relu")(batch_norm(x, f"{name}_1_bn"))
    shortcut = x
    if x.shape[-1] != width:
        shortcut = convolution(active, width, f"{name}_shortcut_conv", kernel_size=1, strides=strides)
    x = convolution(active, width, f"{name}_1_conv", strides=strides)
    x = layers.ReLU(name=f"{name}_2_relu")(batch_norm(x, f"{name}_2_bn"))
    return layers.Add(name=end)([convolution(x, width, f"{name}_2_conv"), shortcut])


wrn_16_1 = functools.partial(wrn, blocks=2, width=1, name="wrn_16_1")
wrn_16_2 = functools.partial(wrn, blocks=2, width=2, name="wrn_16_2")
wrn_40_1 = functools.partial(wrn, blocks=6, width=1, name="wrn_40_1")
wrn_40_2 = functools.partial(wrn, blocks=6, width=2, name="wrn_40_2")
