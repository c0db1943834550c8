"""Residual networks: He et al. 2016, *Deep Residual Learning*, 1512.03385.

`resnet8` to `resnet110` are those of section 4.2: three stages of n basic blocks, depth 6 n + 2, whose shortcut is a
1x1 convolution if the shape changes; `resnet8x4` and `resnet32x4` are four times as wide, as the published
distillation tables use them. `resnet18`, `resnet34` and `resnet50` are those of table 1 with a 3x3 stem of stride 1 and
no pooling after it, as is usual on CIFAR. `resnet18_imagenet`, `resnet34_imagenet` and `resnet50_imagenet` are those of
table 1 themselves, whose stem and pooling quarter the size, with the stride of a bottleneck in its 3x3 convolution as
in torchvision: for images of more than 64 pixels, and below a detector or a segmentation head.
"""

from __future__ import annotations

import functools

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.models.base import classified, conv_bn, image_input
from kd_keras.networks.preprocessing import PixelStatistics


def resnet(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    blocks: tuple[int, ...],
    widths: tuple[int, ...] = (16, 16, 32, 64),
    bottleneck: bool = False,
    quarter: bool = False,
    name: str,
) -> keras.Model:
    """A residual network whose output is `(B, classes)` logits; every stage but the first halves the size.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        blocks: the number of blocks of each stage.
        widths: channels of the stem and of the stages; a bottleneck's output has four times as many.
        bottleneck: whether a block has three convolutions, 1x1, 3x3 and 1x1, instead of two of 3x3.
        quarter: whether the stem is a 7x7 convolution and a pooling, both of stride 2, instead of a 3x3 convolution.
        name: the model's name.

    >>> model = resnet8((32, 32, 3), 100)
    >>> sum(int(keras.ops.size(variable)) for variable in model.trainable_variables)
    83892
    """
    inputs, x = image_input(input_shape, normalization)
    stem = {"kernel_size": 7, "strides": 2} if quarter else {}
    x = layers.ReLU(name="stem_out")(conv_bn(x, widths[0], "stem", **stem))
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x) if quarter else x
    for stage, (count, width) in enumerate(zip(blocks, widths[1:], strict=True), start=1):
        for block in range(1, count + 1):
            unit = f"stage{stage}_block{block}"
            x = _residual_sum(x, width, 2 if stage > 1 and block == 1 else 1, bottleneck, unit)
            x = layers.ReLU(name=f"stage{stage}_out" if block == count else f"{unit}_out")(x)
    return classified(inputs, x, classes, name)


def _residual_sum(x: Tensor, width: int, strides: int, bottleneck: bool, name: str) -> Tensor:
    """Two or three convolutions and the shortcut around them, before the activation."""
    out = 4 * width if bottleneck else width
    shortcut = x
    if strides > 1 or x.shape[-1] != out:
        shortcut = conv_bn(x, out, f"{name}_shortcut", kernel_size=1, strides=strides)
    if bottleneck:
        x = layers.ReLU(name=f"{name}_1_relu")(conv_bn(x, width, f"{name}_1", kernel_size=1))
        x = layers.ReLU(name=f"{name}_2_relu")(conv_bn(x, width, f"{name}_2", strides=strides))
        x = conv_bn(x, out, f"{name}_3", kernel_size=1)
    else:
        x = layers.ReLU(name=f"{name}_1_relu")(conv_bn(x, width, f"{name}_1", strides=strides))
        x = conv_bn(x, out, f"{name}_2")
    return layers.Add(name=f"{name}_sum")([x, shortcut])


WIDE = (32, 64, 128, 256)
FULL = (64, 64, 128, 256, 512)
resnet8 = functools.partial(resnet, blocks=(1, 1, 1), name="resnet8")
resnet14 = functools.partial(resnet, blocks=(2, 2, 2), name="resnet14")
resnet20 = functools.partial(resnet, blocks=(3, 3, 3), name="resnet20")
resnet32 = functools.partial(resnet, blocks=(5, 5, 5), name="resnet32")
resnet44 = functools.partial(resnet, blocks=(7, 7, 7), name="resnet44")
resnet56 = functools.partial(resnet, blocks=(9, 9, 9), name="resnet56")
resnet110 = functools.partial(resnet, blocks=(18, 18, 18), name="resnet110")
resnet8x4 = functools.partial(resnet, blocks=(1, 1, 1), widths=WIDE, name="resnet8x4")
resnet32x4 = functools.partial(resnet, blocks=(5, 5, 5), widths=WIDE, name="resnet32x4")
resnet18 = functools.partial(resnet, blocks=(2, 2, 2, 2), widths=FULL, name="resnet18")
resnet34 = functools.partial(resnet, blocks=(3, 4, 6, 3), widths=FULL, name="resnet34")
resnet50 = functools.partial(resnet, blocks=(3, 4, 6, 3), widths=FULL, bottleneck=True, name="resnet50")
resnet18_imagenet = functools.partial(resnet18, quarter=True, name="resnet18_imagenet")
resnet34_imagenet = functools.partial(resnet34, quarter=True, name="resnet34_imagenet")
resnet50_imagenet = functools.partial(resnet50, quarter=True, name="resnet50_imagenet")
