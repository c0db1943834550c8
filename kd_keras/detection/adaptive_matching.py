"""Which position is responsible for which object, by a threshold that each object sets itself.

Zhang et al. 2020, *Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection* (ATSS), 1912.02424, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.detection.boxes import NO_OBJECT, diou, iou
from kd_keras.detection.matching import BACKGROUND, ROUNDING, Targets

CANDIDATES = 9  # of each level
INSIDE = 0.01  # a responsible position is this far inside the object's box, in pixels


class _Overlaps(NamedTuple):
    """What anchors and objects have in common.

    Attributes:
        iou: `(B, N, M)` float32.
        is_candidate: `(B, N, M)` bool, whether the anchor is one of the nearest of its level.
        threshold: `(B, 1, M)` float32, the lowest IoU of a responsible anchor.
        is_object: `(B, 1, M)` bool.
    """

    iou: Tensor
    is_candidate: Tensor
    threshold: Tensor
    is_object: Tensor


def match_adaptively(
    anchors: Tensor, counts: Sequence[int], boxes: Tensor, classes: Tensor, *, candidates: int = CANDIDATES
) -> Targets:
    """Matches anchors with objects as ATSS does.

    The candidates of an object are on each level the nearest anchors, by the distance of the centers. Its threshold is
    the mean of their IoUs plus their sample standard deviation. A candidate with an IoU of at least that, whose center
    is inside the object's box, is responsible for the object; of several objects, for that with the largest IoU. All
    other anchors are background. If no candidate inside the box reaches the threshold, the best of them are
    responsible, so that no object trains nothing; in ATSS there are none. It happens with fewer than three levels, if
    all anchors contain the object: the standard deviation is then large.

    Args:
        anchors: `(N, 4)`, "xyxy", usually one square for each position.
        counts: the number of anchors of each level; they add up to N.
        boxes: `(B, M, 4)` of the objects, in the units of the anchors.
        classes: `(B, M)` integer, -1 for a row without an object.
        candidates: of each level, at least 1.

    >>> anchors = [[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0], [0.0, 4.0, 4.0, 8.0], [4.0, 4.0, 8.0, 8.0]]
    >>> match_adaptively(anchors, [4], [[[0.0, 0.0, 4.0, 5.0]]], [[7]]).number.numpy().tolist()
    [[0, -1, -1, -1]]
    """
    boxes, classes, anchors = _as_tensors(boxes, classes, anchors)
    overlaps = _compare(anchors, counts, boxes, classes, candidates)
    x, y = ops.split(_centers(anchors)[:, None], 2, axis=-1)  # (N, 1, 1)
    corners = boxes[:, None]  # (B, 1, M, 4)
    margins = [x - corners[..., :1], y - corners[..., 1:2], corners[..., 2:3] - x, corners[..., 3:] - y]
    is_inside = ops.min(ops.concatenate(margins, axis=-1), axis=-1) > INSIDE
    is_eligible = overlaps.is_candidate & is_inside & overlaps.is_object
    best = ops.max(ops.where(is_eligible, overlaps.iou, -1.0), axis=1, keepdims=True)
    # If all candidates have the same IoU, it is the threshold but for rounding.
    is_positive = is_eligible & (overlaps.iou >= ops.minimum(overlaps.threshold, best) - ROUNDING)
    row = ops.cast(ops.argmax(ops.where(is_positive, overlaps.iou, -1.0), axis=-1), "int32")
    return Targets(
        ops.where(ops.any(is_positive, axis=-1), row, BACKGROUND),
        ops.take_along_axis(boxes, row[..., None], axis=1),
        ops.take_along_axis(classes, row, axis=1),
    )


def valuable_region(
    anchors: Tensor,
    counts: Sequence[int],
    boxes: Tensor,
    classes: Tensor,
    *,
    fraction: float = 0.25,
    candidates: int = CANDIDATES,
) -> Tensor:
    """The weight of each anchor in the valuable localization region: the anchors around those that are responsible.

    Zheng et al. 2022, *Localization Distillation for Dense Object Detection*, 2102.12252, algorithm 1: an anchor is in
    the region of an object if its DIoU is below the object's threshold of `match_adaptively` and at least `fraction`
    of it. As in the authors' code all anchors may be, its weight is its IoU, and of several objects the largest counts.

    Args:
        anchors: as `match_adaptively`, like `counts`, `boxes`, `classes` and `candidates`.
        fraction: from 0 to 1.

    Returns:
        `(B, N)` float32 in 0..1, 0 outside the region.

    >>> anchors = [[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 6.0, 4.0], [9.0, 9.0, 12.0, 12.0]]
    >>> valuable_region(anchors, [3], [[[0.0, 0.0, 4.0, 4.0]]], [[7]]).numpy().round(4).tolist()
    [[0.0, 0.33329999446868896, 0.0]]
    """
    boxes, classes, anchors = _as_tensors(boxes, classes, anchors)
    overlaps = _compare(anchors, counts, boxes, classes, candidates)
    distance = diou(anchors[:, None], boxes[:, None])
    is_near = (distance < overlaps.threshold) & (distance >= fraction * overlaps.threshold) & overlaps.is_object
    return ops.max(ops.where(is_near, overlaps.iou, 0.0), axis=-1)


def _as_tensors(boxes: Tensor, classes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    boxes, anchors = (ops.cast(ops.convert_to_tensor(array), "float32") for array in (boxes, anchors))
    return boxes, ops.cast(ops.convert_to_tensor(classes), "int32"), anchors


def _compare(anchors: Tensor, counts: Sequence[int], boxes: Tensor, classes: Tensor, candidates: int) -> _Overlaps:
    overlaps = iou(anchors[:, None], boxes[:, None])
    distances = ops.sum(ops.square(_centers(anchors)[:, None] - _centers(boxes)[:, None]), axis=-1)
    nearest, start = [], 0
    for count in counts:
        nearest.append(_are_smallest(distances[:, start : start + count], min(candidates, count)))
        start += count
    is_candidate = ops.concatenate(nearest, axis=1)
    chosen, total = ops.cast(is_candidate, "float32"), sum(min(candidates, count) for count in counts)
    mean = ops.sum(chosen * overlaps, axis=1, keepdims=True) / total
    variance = ops.sum(chosen * ops.square(overlaps - mean), axis=1, keepdims=True) / max(total - 1, 1)
    return _Overlaps(overlaps, is_candidate, mean + ops.sqrt(variance), (classes != NO_OBJECT)[:, None])


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _are_smallest(values: Tensor, count: int) -> Tensor:
    """Which `count` of the values `(B, N, M)` along N are the smallest; of equal ones the first, as `top_k` has it."""
    last = -ops.top_k(-ops.transpose(values, (0, 2, 1)), count)[0][..., -1][:, None]
    is_smaller, is_equal = values < last, values == last
    room = count - ops.sum(ops.cast(is_smaller, "int32"), axis=1, keepdims=True)
    return is_smaller | (is_equal & (ops.cumsum(ops.cast(is_equal, "int32"), axis=1) <= room))
