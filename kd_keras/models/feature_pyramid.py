"""The feature pyramid of a detector on the stages of a network, and the convolutions that its levels share.

Lin et al. 2017, *Feature Pyramid Networks for Object Detection*, 1612.03144, with separable convolutions, and BatchNorm
of momentum 0.9 for each level as in EfficientDet (Tan et al. 2020, 1911.09070).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.detection.losses import PRIOR
from kd_keras.errors import explain_mismatch
from kd_keras.models.base import batch_norm, convolution, fan_out
from kd_keras.networks.own_layers import on_own_layers
from kd_keras.networks.stages import StagedGraph


def stages_by_level(backbone: keras.Model) -> tuple[Any, dict[int, Tensor]]:
    """The inputs of a backbone, and its last stage of each stride 2^level, `(B, H, W, C)`, from fine to coarse.

    Raises:
        ValueError: if the backbone's input has no fixed size, or it has no stages.
    """
    size = backbone.input_shape[1:3] if isinstance(backbone.input_shape, tuple) else None
    if size is None or None in size:
        expected = "a backbone with one input (H, W, C) of a fixed size"
        raise ValueError(explain_mismatch(expected, f"{backbone.name!r} with the input {backbone.input_shape}"))
    graph = StagedGraph(backbone)
    stages = graph.stages()
    inputs, maps = on_own_layers(graph, stages)
    maps = [
        layers.Permute((2, 3, 1))(x) if graph.is_channels_first(stage) else x
        for stage, x in zip(stages, maps, strict=True)
    ]
    return inputs, dict(zip(find_levels(size, [x.shape[1:3] for x in maps]), maps, strict=True))


def find_levels(size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> list[int]:
    """The level l of each map of a network, whose stride is 2^l.

    The sides of a map are those of the image divided by 2^l, all rounded up, as "same" convolutions do, or all rounded
    down. The side of a small map alone does not tell: 40 pixels have a side of 2 at stride 16 rounded down, and at
    stride 32 rounded up. If both are possible, the smaller levels are taken, which skip no stride; if neither is, as
    after "valid" convolutions, the longer side decides.

    >>> find_levels((40, 40), [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2)])
    [1, 2, 3, 4, 5]
    >>> find_levels((40, 40), [(20, 20), (10, 10), (5, 5), (2, 2)])
    [1, 2, 3, 4]
    """
    possible = []
    for rounded in (math.ceil, math.floor):
        scaled = [tuple(rounded(side / 2**level) for side in size) for level in range(max(size).bit_length() + 1)]
        if all(tuple(sides) in scaled for sides in maps):
            possible.append([scaled.index(tuple(sides)) for sides in maps])
    longer = size.index(max(size))
    return min(possible, default=[round(math.log2(size[longer] / sides[longer])) for sides in maps])


def feature_pyramid(stages: dict[int, Tensor], pyramid: Sequence[int], width: int) -> dict[int, Tensor]:
    """The map of each level, `(B, h, w, width)`, the outputs of the layers "pyramid_p<level>".

    Args:
        stages: by level.
        pyramid: consecutive levels.
        width: the number of channels.

    Raises:
        ValueError: if a level is finer than the stages or between two of them.
    """
    coarsest = max(stages)
    missing = [level for level in pyramid if level < coarsest and level not in stages]
    if missing or pyramid[0] > coarsest:
        expected = f"a pyramid that begins at one of the levels {sorted(stages)} of the network's stages"
        advice = "level l has the stride 2^l; choose other levels, or another network or image size"
        raise ValueError(explain_mismatch(expected, f"pyramid={tuple(pyramid)}", advice))
    maps: dict[int, Tensor] = {}
    above = None
    for level in sorted((level for level in pyramid if level in stages), reverse=True):
        x = convolution(stages[level], width, f"fpn_lateral_p{level}_conv", kernel_size=1)
        x = batch_norm(x, f"fpn_lateral_p{level}")
        if above is not None:
            x = layers.Add(name=f"fpn_sum_p{level}")([x, _enlarge(above, x, level)])
        above = x
        maps[level] = batch_norm(_separable(width, f"fpn_p{level}_conv")(x), f"pyramid_p{level}")
    for level in (level for level in pyramid if level > coarsest):
        x = layers.ReLU(name=f"fpn_p{level}_relu")(maps[level - 1])
        x = _separable(width, f"fpn_p{level}_conv", strides=2)(x)
        maps[level] = batch_norm(x, f"pyramid_p{level}")
    return {level: maps[level] for level in pyramid}


def _enlarge(x: Tensor, finer: Tensor, level: int) -> Tensor:
    """A map at the size of the next finer one; an odd size has been rounded up, or down."""
    x = layers.UpSampling2D(2, name=f"fpn_upsample_p{level}")(x)
    excess = [x.shape[axis] - finer.shape[axis] for axis in (1, 2)]
    if any(size < 0 for size in excess):
        x = layers.ZeroPadding2D([(0, max(0, -size)) for size in excess], name=f"fpn_pad_p{level}")(x)
    if any(size > 0 for size in excess):
        x = layers.Cropping2D([(0, max(0, size)) for size in excess], name=f"fpn_crop_p{level}")(x)
    return x


def predict(
    maps: dict[int, Tensor], width: int, depth: int, name: str, outputs: int, bias: Any = "zeros"
) -> dict[int, Tensor]:
    """Predictions `(B, h, w, outputs)` of each level. Convolutions are shared; each level has its own BatchNorm.

    Args:
        maps: of each level, `(B, h, w, width)`.
        width: the number of channels of the convolutions.
        depth: the number of convolutions before the predictions.
        name: of the branch; its maps are the layers "<name>_conv1_p<level>", ..., before their activation
            "<name>_conv1_p<level>_bn", ....
        outputs: the number of predictions at each position.
        bias: the initial bias of the predictions.
    """
    maps = dict(maps)
    for number in range(1, depth + 1):
        shared = _separable(width, f"{name}_conv{number}")
        for level, x in maps.items():
            x = batch_norm(shared(x), f"{name}_conv{number}_p{level}_bn")
            maps[level] = layers.ReLU(name=f"{name}_conv{number}_p{level}")(x)
    small = keras.initializers.RandomNormal(stddev=0.01)
    options = {"use_bias": True, "bias_initializer": bias, "pointwise_initializer": small}
    shared = _separable(outputs, f"{name}_predictions", **options)
    return {level: shared(x) for level, x in maps.items()}


def predict_classes(maps: dict[int, Tensor], width: int, depth: int, classes: int, per_position: int) -> Tensor:
    """The logits of all anchors, `(B, N, classes)` float32; at first every class has the probability `PRIOR`."""
    prior = keras.initializers.Constant(-math.log((1 - PRIOR) / PRIOR))
    predictions = predict(maps, width, depth, "class", per_position * classes, prior)
    rows = [layers.Reshape((-1, classes), name=f"class_logits_p{level}")(x) for level, x in predictions.items()]
    return layers.Concatenate(axis=1, dtype="float32", name="class_logits")(rows)


def _separable(width: int, name: str, **options: Any) -> layers.Layer:
    defaults = {"use_bias": False, "depthwise_initializer": fan_out(), "pointwise_initializer": fan_out()}
    return layers.SeparableConv2D(width, 3, padding="same", name=name, **{**defaults, **options})
