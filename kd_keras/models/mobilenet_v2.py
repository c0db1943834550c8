"""MobileNetV2 for small images: Sandler et al. 2018, *Inverted Residuals and Linear Bottlenecks*, 1801.04381, table 2.

The form of the published distillation tables: half width, the second stage at full resolution, an expansion
convolution in every block (even where it expands by 1), ReLU where the paper has ReLU6. A bottleneck's output is
linear; the last maps of a resolution, "stages", are those to which the next block expands it. The bottlenecks
themselves go by their layers: `stage2_block2_sum`, `stage3_block3_sum`, `stage5_block3_sum`,
`stage7_block1_project_bn`.
"""

from __future__ import annotations

import keras
from keras import layers

# expansion, channels at full width, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
INITIALIZER = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


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
        raise ValueError(f"Needed: a width of at least 1/16\nCame:   {width}")
    inputs = keras.Input(input_shape, name="image")
    x = _conv_bn(inputs, int(32 * width), "stem", kernel=3, strides=2)
    x = layers.ReLU(name="stem_out")(x)
    for stage, (expansion, channels, blocks, first_strides) in enumerate(STAGES, start=1):
        for block in range(1, blocks + 1):
            strides = first_strides if block == 1 else 1
            x = _inverted_residual(x, expansion, int(channels * width), strides, f"stage{stage}_block{block}")
    x = _conv_bn(x, int(1280 * max(width, 1.0)), "head")
    x = layers.ReLU(name="head_out")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


def _inverted_residual(x, expansion: int, width: int, strides: int, name: str):
    shortcut = x
    x = layers.ReLU(name=f"{name}_expand_relu")(_conv_bn(x, expansion * x.shape[-1], f"{name}_expand"))
    x = layers.DepthwiseConv2D(
        3, strides, padding="same", use_bias=False, depthwise_initializer=INITIALIZER, name=f"{name}_depthwise"
    )(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_depthwise_bn")(x)
    x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
    x = _conv_bn(x, width, f"{name}_project")
    if strides == 1 and shortcut.shape[-1] == width:
        x = layers.Add(name=f"{name}_sum")([x, shortcut])
    return x


def _conv_bn(x, width: int, name: str, kernel: int = 1, strides: int = 1):
    x = layers.Conv2D(
        width, kernel, strides, padding="same", use_bias=False, kernel_initializer=INITIALIZER, name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
