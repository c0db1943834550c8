"""Which anchor is responsible for which object."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.detection.boxes import NO_OBJECT, iou

BACKGROUND, IGNORED = -1, -2  # in place of an object's number
ROUNDING = 1e-6


class Targets(NamedTuple):
    """What the predictions of each anchor should be.

    Attributes:
        number: `(B, N)` int32, the row of the object that an anchor is responsible for, or BACKGROUND, or IGNORED.
        boxes: `(B, N, 4)`, the object's box; any box for other anchors.
        classes: `(B, N)` int32, the object's class; any class for other anchors.
    """

    number: Tensor
    boxes: Tensor
    classes: Tensor

    @property
    def is_positive(self) -> Tensor:
        """`(B, N)` bool, whether the anchor is responsible for an object."""
        return self.number >= 0

    @property
    def is_ignored(self) -> Tensor:
        """`(B, N)` bool, whether the anchor has no part in any loss."""
        return self.number == IGNORED


def match_anchors(
    anchors: Tensor, boxes: Tensor, classes: Tensor, *, positive: float = 0.5, negative: float = 0.4
) -> Targets:
    """Matches anchors with objects by IoU, as RetinaNet does.

    An anchor is responsible for the object with the largest IoU if that is at least `positive`; it is background if it
    is below `negative`, and is ignored in between (Lin et al. 2017, 1708.02002, section 4). In addition the best
    anchors of every object are responsible for it, however small their IoU, so that no object trains nothing; of
    several such objects, an anchor takes that of the largest IoU. (Detectron2 and torchvision have this addition too,
    but there such an anchor keeps the object of its own largest IoU.)

    Args:
        anchors: `(N, 4)`, "xyxy".
        boxes: `(B, M, 4)` of the objects, in the units of the anchors.
        classes: `(B, M)` integer, -1 for a row without an object.
        positive: the lowest IoU of a responsible anchor.
        negative: at most `positive`.

    >>> anchors = [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0], [8.0, 8.0, 9.0, 9.0]]
    >>> match_anchors(anchors, [[[0.0, 0.0, 4.0, 4.5]]], [[7]]).number.numpy().tolist()
    [[0, -2, -1]]
    """
    boxes = ops.cast(ops.convert_to_tensor(boxes), "float32")
    classes = ops.cast(ops.convert_to_tensor(classes), "int32")
    anchors = ops.cast(ops.convert_to_tensor(anchors), "float32")
    is_object = (classes != NO_OBJECT)[:, None]
    overlaps = ops.where(is_object, iou(anchors[:, None], boxes[:, None]), -1.0)  # (B, N, M)
    largest, number = ops.max(overlaps, axis=-1), ops.cast(ops.argmax(overlaps, axis=-1), "int32")
    number = ops.where(largest >= positive, number, ops.where(largest < negative, BACKGROUND, IGNORED))
    # Anchors around a small object all have the same IoU but for rounding.
    is_best = (overlaps >= ops.max(overlaps, axis=1, keepdims=True) - ROUNDING) & (overlaps > 0)
    best_number = ops.cast(ops.argmax(ops.where(is_best, overlaps, -1.0), axis=-1), "int32")
    number = ops.where(ops.any(is_best, axis=-1), best_number, number)
    row = ops.maximum(number, 0)
    return Targets(
        number,
        ops.take_along_axis(boxes, row[..., None], axis=1),
        ops.take_along_axis(classes, row, axis=1),
    )
