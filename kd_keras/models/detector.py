"""A one-stage detector on the stages of any network: a feature pyramid and heads that all levels share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras

from kd_keras.errors import check_choice, check_number, check_whole_number, explain_mismatch
from kd_keras.models import gfl_head, retinanet_head
from kd_keras.models.detection_model import Detector
from kd_keras.models.feature_pyramid import feature_pyramid, stages_by_level

HEADS = ("retinanet", "gfl")


def detector(
    backbone: keras.Model,
    classes: int,
    *,
    head: Literal["retinanet", "gfl"] = "retinanet",
    pyramid: Sequence[int] = (3, 4, 5),
    width: int = 64,
    depth: int = 2,
    anchor_scale: float | None = None,
    anchors: Literal["exact", "whole"] = "exact",
    box_loss: Literal["giou", "smooth_l1"] = "giou",
    name: str | None = None,
) -> Detector:
    """Builds a detector on a network's stages, sharing the network's layers.

    Level l of the pyramid has the stride 2^l. A level is made of the last stage of its stride; levels above the
    coarsest stage are made of the level below. The maps of the pyramid are the layers "pyramid_p3", ..., all of
    them the tap "pyramid_p*"; those inside the heads are "class_conv1_p3", ..., "box_conv1_p3", ....

    Args:
        backbone: a Functional classifier with an input of a fixed size, such as any of the zoo; its classifier is not
            used.
        classes: K, at least 1. There is no class for the background.
        head: "retinanet", nine anchors at each position, whose boxes are offsets, or "gfl", one box at each position,
            whose edges are distributions, as methods such as LD need it.
        pyramid: consecutive levels, such as (2, 3, 4, 5) for small objects.
        width: the number of channels of the pyramid and the heads.
        depth: the number of convolutions of each head before the predictions, at least 1.
        anchor_scale: the side of the smallest square anchor of a level, in strides; 4 by default, for "gfl" 8. Images
            below 320 pixels need half of that.
        anchors: of the head "retinanet": "exact" as in the paper, or "whole", rounded to pixels as torchvision and
            KerasHub do, for a student of such a teacher.
        box_loss: of the head "retinanet": "giou", or "smooth_l1" of the offsets as in the paper.
        name: the model's name; by default `"detector_"` and the network's.

    Returns:
        A model from images `(B, H, W, C)`, pixel values from 0 to 255, to "class_logits" `(B, N, K)` for N anchors, and
        "box_deltas" `(B, N, 4)` or, for "gfl", "box_logits" `(B, N, 4, 17)`, all float32.

    Raises:
        ValueError: if an argument is out of range, the input has no fixed size, or a level of the pyramid is finer
            than the stages or between two of them.

    >>> from kd_keras.models.resnet import resnet8
    >>> network = detector(resnet8((32, 32, 3), 10), 3, pyramid=(2, 3), width=16)
    >>> network(keras.ops.zeros((2, 32, 32, 3)))["class_logits"].shape  # 9 anchors at 8 x 8 and 4 x 4 positions
    TensorShape([2, 720, 3])
    """
    check_whole_number("detector", "classes", classes)
    check_whole_number("detector", "width", width)
    check_whole_number("detector", "depth", depth)
    check_choice("detector", "head", head, HEADS)
    check_choice("detector", "box_loss", box_loss, tuple(retinanet_head.BOX_LOSSES))
    if anchor_scale is not None:
        check_number("detector", "anchor_scale", anchor_scale, above=0)
    check_choice("detector", "anchors", anchors, ("exact", "whole"))
    if head == "gfl" and (box_loss, anchors) != ("giou", "exact"):
        expected = "box_loss='giou' and anchors='exact' for the head 'gfl', whose boxes are no offsets"
        received = f"box_loss={box_loss!r} and anchors={anchors!r}"
        raise ValueError(explain_mismatch(expected, received, "leave both out"))
    if not pyramid or list(pyramid) != [*range(pyramid[0], pyramid[0] + len(pyramid))]:
        raise ValueError(explain_mismatch("a pyramid of consecutive levels, such as (3, 4, 5)", str(pyramid)))
    inputs, stages = stages_by_level(backbone)
    maps = feature_pyramid(stages, pyramid, width)
    name = name or f"detector_{backbone.name}"
    if head == "gfl":
        scale = anchor_scale or gfl_head.ANCHOR_SCALE
        outputs = gfl_head.gfl_outputs(maps, classes, width=width, depth=depth, anchor_scale=scale)
        return gfl_head.GFL(inputs=inputs, outputs=outputs, name=name)
    scale = anchor_scale or retinanet_head.ANCHOR_SCALE
    outputs = retinanet_head.retinanet_outputs(
        maps, classes, width=width, depth=depth, anchor_scale=scale, box_loss=box_loss, whole=anchors == "whole"
    )
    return retinanet_head.RetinaNet(inputs=inputs, outputs=outputs, name=name)
