"""MobileNetV2 for small images: Sandler et al. 2018, *Inverted Residuals and Linear Bottlenecks*, 1801.04381, table 2.

The form of the published distillation tables: half width, the second stage at full resolution, an expansion
convolution in every block (even where it expands by 1), ReLU where the paper has ReLU6. A bottleneck's output is
linear and has no activation, before which there could be a tap; the published taps of the last bottlenecks of a
resolution are `"stage?_out"`. `"stages"` are the last maps with an activation, to which the next block expands them.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from kd_keras.errors import explain_mismatch
from kd_keras.models.base import classified, conv_bn, depthwise_bn

# expansion, channels at full width, blocks, stride of the first block
ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST = (2, 3, 5, 7)  # the rows after which the size changes, or the classifier comes


def mobilenet_v2(
    input_shape: tuple[int, int, int], classes: int, *, width: float = 0.5, name: str = "mobilenet_v2"
) -> keras.Model:
    """MobileNetV2 whose output is `(B, classes)` logits; `width` > 0 multiplies the channels of every layer but the
    last convolution's 1280 (which grows only for `width` > 1).

    Raises:
        ValueError: where `width` leaves a layer without a channel.

    >>> mobilenet_v2((32, 32, 3), 100).output_shape
    (None, 100)
    """
    if int(16 * width) < 1:
        raise ValueError(explain_mismatch("a width of at least 1/16", repr(width)))
    inputs = keras.Input(input_shape, name="image")
    x = layers.ReLU(name="stem_out")(conv_bn(inputs, int(32 * width), "stem", strides=2))
    for row, (expansion, channels, blocks, first_strides) in enumerate(ROWS, start=1):
        for block in range(1, blocks + 1):
            strides = first_strides if block == 1 else 1
            x = _inverted_residual(x, expansion, int(channels * width), strides, f"bottleneck{row}_{block}")
        if row in LAST:
            x = layers.Identity(name=f"stage{LAST.index(row) + 1}_out")(x)
    x = layers.ReLU(name="head_out")(conv_bn(x, int(1280 * max(width, 1.0)), "head", kernel_size=1))
    return classified(inputs, x, classes, name)


def _inverted_residual(x: Any, expansion: int, width: int, strides: int, name: str) -> Any:
    shortcut = x
    x = conv_bn(x, expansion * x.shape[-1], f"{name}_expand", kernel_size=1)
    x = layers.ReLU(name=f"{name}_expand_relu")(x)
    x = depthwise_bn(x, f"{name}_depthwise", strides=strides)
    x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
    x = conv_bn(x, width, f"{name}_project", kernel_size=1)
    if strides == 1 and shortcut.shape[-1] == width:
        x = layers.Add(name=f"{name}_sum")([x, shortcut])
    return x
