"""ShuffleNet V1: Zhang, Zhou et al. 2018, *An Extremely Efficient Convolutional Neural Network*, 1707.01083, table 1.

`shufflenet_v1_imagenet` is the network of the paper. `shufflenet_v1` is for small images, as the published distillation
tables use it: its stem is a 1x1 convolution that does not change the size, a ReLU follows the depthwise convolution
too, and the first unit of a stage has a bottleneck of a quarter of the channels that it adds, not of its output.
"""

from __future__ import annotations

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.models.base import channel_shuffle, classified, conv_bn, depthwise_bn, image_input
from kd_keras.networks.preprocessing import PixelStatistics

# groups: channels of the first stage at full width (table 1); each later stage has twice as many
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
UNITS = (4, 8, 4)
# width: channels of the stem; the paper gives only 24 at full width, and these reproduce the complexities of table 2
STEMS = {0.25: 12, 0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}


def shufflenet_v1(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    width: float = 1.0,
    groups: int = 3,
    name: str = "shufflenet_v1",
) -> keras.Model:
    """ShuffleNet V1 for small images, whose output is `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        width: the factor of the channels of the stages, above 0; the stem keeps 24.
        groups: the number of groups of the 1x1 convolutions: 1, 2, 3, 4 or 8.
        name: the model's name.

    Raises:
        ValueError: if there are other groups, or if the channels at this width are not a multiple of 4 groups.

    >>> shufflenet_v1((32, 32, 3), 100).output_shape
    (None, 100)
    """
    inputs, x = image_input(input_shape, normalization)
    x = layers.ReLU(name="stem_out")(conv_bn(x, 24, "stem", kernel_size=1))
    return _stages(inputs, x, classes, width, groups, True, name)


def shufflenet_v1_imagenet(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    width: float = 1.0,
    groups: int = 3,
    name: str = "shufflenet_v1_imagenet",
) -> keras.Model:
    """ShuffleNet V1 as in the paper, made for 224 pixels, whose output is `(B, classes)` logits.

    Arguments and errors are those of `shufflenet_v1`; `width` is one of the paper's, 0.25, 0.5, 1, 1.5 or 2.

    >>> shufflenet_v1_imagenet((64, 64, 3), 1000, width=0.5).output_shape
    (None, 1000)
    """
    if width not in STEMS:
        raise ValueError(explain_mismatch(f"{name}(width=...) one of {', '.join(map(str, STEMS))}", repr(width)))
    inputs, x = image_input(input_shape, normalization)
    x = layers.ReLU(name="stem_out")(conv_bn(x, STEMS[width], "stem", strides=2))
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    return _stages(inputs, x, classes, width, groups, False, name)


def _stages(inputs: Tensor, x: Tensor, classes: int, width: float, groups: int, small: bool, name: str) -> keras.Model:
    check_number(name, "width", width, above=0)
    if groups not in CHANNELS:
        raise ValueError(explain_mismatch(f"{name}(groups=...) one of {', '.join(map(str, CHANNELS))}", repr(groups)))
    if (CHANNELS[groups] * width) % (4 * groups):
        raise ValueError(
            explain_mismatch(f"a width for which {CHANNELS[groups]} * width is a multiple of {4 * groups}", repr(width))
        )
    for stage, units in enumerate(UNITS, start=1):
        channels = int(CHANNELS[groups] * width) * 2 ** (stage - 1)
        for unit in range(1, units + 1):
            label = f"stage{stage}_unit{unit}"
            first = 1 if stage == unit == 1 else groups  # the stem has too few channels for groups
            if unit == 1:
                added = channels - x.shape[-1]
                bottleneck = (added if small else channels) // 4
                shortcut = layers.AveragePooling2D(3, 2, padding="same", name=f"{label}_shortcut")(x)
                x = _branch(x, bottleneck, added, 2, (first, groups), small, label)
                x = layers.Concatenate(name=f"{label}_joined")([shortcut, x])
            else:
                branch = _branch(x, channels // 4, channels, 1, (first, groups), small, label)
                x = layers.Add(name=f"{label}_sum")([branch, x])
            x = layers.ReLU(name=f"stage{stage}_out" if unit == units else f"{label}_out")(x)
    return classified(inputs, x, classes, name)


def _branch(x: Tensor, bottleneck: int, width: int, strides: int, groups: tuple, relu: bool, name: str) -> Tensor:
    x = layers.ReLU(name=f"{name}_1_relu")(conv_bn(x, bottleneck, f"{name}_1", kernel_size=1, groups=groups[0]))
    x = channel_shuffle(x, groups[1], f"{name}_shuffle") if groups[1] > 1 else x
    x = depthwise_bn(x, f"{name}_depthwise", strides=strides)
    x = layers.ReLU(name=f"{name}_depthwise_relu")(x) if relu else x
    return conv_bn(x, width, f"{name}_2", kernel_size=1, groups=groups[1])
