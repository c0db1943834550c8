"""MobileNet V1 for small images: Howard et al. 2017, *MobileNets*, 1704.04861, table 1.

The layers of the paper with strides for 32 pixels: the stem and the first block that would halve keep the size, so
that three halvings leave 4x4. The activation is ReLU; later code has ReLU6.
"""

from __future__ import annotations

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.models.base import classified, conv_bn, depthwise_bn, image_input
from kd_keras.networks.preprocessing import PixelStatistics

# channels at full width of the blocks of each stage; each stage but the first begins with stride 2
STAGES = ((64, 128, 128), (256, 256), (512,) * 6, (1024, 1024))


def mobilenet_v1(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    width: float = 1.0,
    name: str = "mobilenet_v1",
) -> keras.Model:
    """MobileNet whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        width: the factor of the channels of every layer, at least 1/32.
        name: the model's name.

    Raises:
        ValueError: if `width` leaves a layer without a channel.

    >>> mobilenet_v1((32, 32, 3), 100, width=0.25).output_shape
    (None, 100)
    """
    if int(32 * width) < 1:
        raise ValueError(explain_mismatch("a width of at least 1/32", repr(width)))
    inputs, x = image_input(input_shape, normalization)
    x = layers.ReLU(name="stem_out")(conv_bn(x, int(32 * width), "stem"))
    for stage, blocks in enumerate(STAGES, start=1):
        for block, channels in enumerate(blocks, start=1):
            strides = 2 if stage > 1 and block == 1 else 1
            end = f"stage{stage}_out" if block == len(blocks) else f"stage{stage}_block{block}_out"
            x = _separable(x, int(channels * width), strides, f"stage{stage}_block{block}", end)
    return classified(inputs, x, classes, name)


def _separable(x: Tensor, width: int, strides: int, name: str, end: str) -> Tensor:
    x = depthwise_bn(x, f"{name}_depthwise", strides=strides)
    x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
    return layers.ReLU(name=end)(conv_bn(x, width, name, kernel_size=1))
