"""A segmentation network on the stages of any network, with the head LR-ASPP or DeepLabV3+.

LR-ASPP: Howard et al. 2019, *Searching for MobileNetV3*, 1905.02244, section 6.4, with the mean over the whole map in
the attention branch, as in torchvision. DeepLabV3+: `deeplab_head.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import check_choice, check_number, check_whole_number, explain_mismatch
from kd_keras.models.base import batch_norm, convolution
from kd_keras.models.deeplab_head import deeplab_features
from kd_keras.models.feature_pyramid import stages_by_level

HEADS = ("lr_aspp", "deeplab_v3_plus")


def segmenter(
    backbone: keras.Model,
    classes: int,
    *,
    head: Literal["lr_aspp", "deeplab_v3_plus"] = "lr_aspp",
    levels: Sequence[int] | None = None,
    width: int = 128,
    rates: Sequence[int] | None = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Builds a segmentation network on a network's stages, sharing the network's layers.

    The head reads a fine and a coarse map of the network. LR-ASPP gives the coarse map a 1x1 convolution and weights it
    by channels; its logits, enlarged to the size of the fine map, are added to those of the fine map. DeepLabV3+ takes
    more time and sees the coarse map in several scales: separable convolutions at several atrous rates and the mean of
    the map; two more separable convolutions join them with the fine map.

    The logits at the size of the fine map, the layer "logits_map" (B, h, w, K), are resized to the input's size with
    half-pixel centers. The features before the logits are the layer "segmentation_features": of LR-ASPP
    (B, h', w', width), the size of the coarse map, and of DeepLabV3+ (B, h, w, width). Methods read them as taps of
    these names; the tap "logits" has the input's size.

    Args:
        backbone: a Functional classifier with an input of a fixed size, such as any of the zoo; its classifier is not
            used.
        classes: K, at least 2; the background, if it has a class, is one of them.
        head: "lr_aspp", the lighter one, or "deeplab_v3_plus".
        levels: the levels of the fine and the coarse stage, where level l has the stride 2^l. By default the coarsest
            stage, and the coarsest of those at least four times as large, or the finest stage if there is none.
        width: the number of channels of the coarse branch; of DeepLabV3+ also of the decoder, 256 in the paper.
        rates: the atrous rates of DeepLabV3+, each below the longer side of the coarse map, since a kernel with a
            larger one reads nothing but padding around its center. By default the published 6, 12 and 18, which are
            for a map of 33 x 33; on a smaller one in proportion to its shorter side, such as 2, 4 and 7 on 12 x 16.
        dropout: the share of the coarse branch that training drops: channels of LR-ASPP, values of DeepLabV3+.
        name: the model's name; by default `"segmenter_"` and the network's.

    Returns:
        A model from images `(B, H, W, C)`, pixel values from 0 to 255, to logits `(B, H, W, K)` float32.

    Raises:
        ValueError: if an argument is out of range, the input has no fixed size, or the network has no stage of a level.

    >>> from kd_keras.models.resnet import resnet8
    >>> segmenter(resnet8((24, 32, 3), 10), 3, width=16).output_shape
    (None, 24, 32, 3)
    """
    check_whole_number("segmenter", "classes", classes, least=2)
    check_whole_number("segmenter", "width", width)
    check_number("segmenter", "dropout", dropout, least=0, below=1)
    check_choice("segmenter", "head", head, HEADS)
    if head == "lr_aspp" and rates is not None:
        expected, advice = "head='deeplab_v3_plus' for atrous rates", "leave rates out or choose that head"
        raise ValueError(explain_mismatch(expected, f"head={head!r} with rates={rates}", advice))
    inputs, stages = stages_by_level(backbone)
    fine, coarse = (stages[level] for level in _choose_levels(stages, levels))
    if head == "deeplab_v3_plus":
        x = _logits(deeplab_features(fine, coarse, width, rates, dropout), classes, "logits_map")
    else:
        x = _lr_aspp(fine, coarse, classes, width, dropout)
    options = {"data_format": "channels_last", "dtype": "float32", "name": "logits"}
    outputs = layers.Resizing(*backbone.input_shape[1:3], "bilinear", **options)(x)
    return keras.Model(inputs, outputs, name=name or f"segmenter_{backbone.name}")


def _lr_aspp(fine: Tensor, coarse: Tensor, classes: int, width: int, dropout: float) -> Tensor:
    """The logits of LR-ASPP at the size of the fine map, the layer "logits_map"."""
    x = convolution(coarse, width, "segmentation_conv", kernel_size=1)
    x = layers.ReLU(name="segmentation_relu")(batch_norm(x, "segmentation_bn"))
    scale = layers.GlobalAveragePooling2D(keepdims=True, name="segmentation_pool")(coarse)
    scale = convolution(scale, width, "segmentation_scale_conv", kernel_size=1)
    scale = layers.Activation("sigmoid", name="segmentation_scale")(scale)
    x = layers.Multiply(name="segmentation_features")([x, scale])
    x = layers.SpatialDropout2D(dropout, name="segmentation_dropout")(x) if dropout else x
    x = _logits(x, classes, "coarse_logits")
    if fine is coarse:
        return layers.Identity(name="logits_map")(x)
    height, width = fine.shape[1:3]
    x = layers.Resizing(height, width, "bilinear", data_format="channels_last", name="coarse_logits_resized")(x)
    return layers.Add(name="logits_map")([x, _logits(fine, classes, "fine_logits")])


def _logits(x: Tensor, classes: int, name: str) -> Tensor:
    return layers.Conv2D(classes, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name=name)(x)


def _choose_levels(stages: dict[int, Tensor], levels: Sequence[int] | None) -> tuple[int, int]:
    """The levels of the fine and the coarse stage."""
    if levels is None:
        coarse = max(stages)
        return max([level for level in stages if level <= coarse - 2] or [min(stages)]), coarse
    if len(levels) != 2 or levels[0] > levels[1] or not set(levels) <= set(stages):
        expected = f"the levels (fine, coarse) of two of the network's stages, which are {sorted(stages)}"
        advice = "level l has the stride 2^l; choose other levels, or another network or image size"
        raise ValueError(explain_mismatch(expected, f"levels={tuple(levels)}", advice))
    return levels[0], levels[1]
