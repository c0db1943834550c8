"""Residual networks for small images: He et al. 2016, *Deep Residual Learning*, 1512.03385, section 4.2.

Three stages of basic blocks, depth = 6 n + 2. The shortcut is a 1x1 convolution wherever the shape changes, and
`resnet8x4` and `resnet32x4` are four times as wide, as the published distillation tables use them.
"""

from __future__ import annotations

import functools

import keras
from keras import layers

INITIALIZER = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def resnet(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    depth: int,
    widths: tuple[int, ...] = (16, 16, 32, 64),
    name: str,
) -> keras.Model:
    """A residual network whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        depth: 6 n + 2 weighted layers, n blocks a stage.
        widths: channels of the stem and of the three stages.
        name: the model's name.

    Raises:
        ValueError: where `depth` is not 6 n + 2.

    >>> model = resnet8((32, 32, 3), 100)
    >>> sum(int(keras.ops.size(variable)) for variable in model.trainable_variables)
    83892
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"Needed: a depth of 6 n + 2 (8, 14, 20, ...)\nCame:   {depth}")
    inputs = keras.Input(input_shape, name="image")
    x = _conv_bn(inputs, widths[0], "stem")
    x = layers.ReLU(name="stem_out")(x)
    for stage, width in enumerate(widths[1:], start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(x, width, strides, f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


def _basic_block(x, width: int, strides: int, name: str):
    shortcut = x
    if strides > 1 or x.shape[-1] != width:
        shortcut = _conv_bn(x, width, f"{name}_shortcut", kernel=1, strides=strides)
    x = layers.ReLU(name=f"{name}_relu")(_conv_bn(x, width, f"{name}_1", strides=strides))
    x = _conv_bn(x, width, f"{name}_2")
    x = layers.Add(name=f"{name}_sum")([x, shortcut])
    return layers.ReLU(name=f"{name}_out")(x)


def _conv_bn(x, width: int, name: str, kernel: int = 3, strides: int = 1):
    x = layers.Conv2D(
        width, kernel, strides, padding="same", use_bias=False, kernel_initializer=INITIALIZER, name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


WIDE = (32, 64, 128, 256)
resnet8 = functools.partial(resnet, depth=8, name="resnet8")
resnet14 = functools.partial(resnet, depth=14, name="resnet14")
resnet20 = functools.partial(resnet, depth=20, name="resnet20")
resnet32 = functools.partial(resnet, depth=32, name="resnet32")
resnet44 = functools.partial(resnet, depth=44, name="resnet44")
resnet56 = functools.partial(resnet, depth=56, name="resnet56")
resnet110 = functools.partial(resnet, depth=110, name="resnet110")
resnet8x4 = functools.partial(resnet, depth=8, widths=WIDE, name="resnet8x4")
resnet32x4 = functools.partial(resnet, depth=32, widths=WIDE, name="resnet32x4")
