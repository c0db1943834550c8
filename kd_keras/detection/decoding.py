"""From a detector's predictions to a fixed number of boxes with scores, by non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.detection.boxes import NO_OBJECT, iou

LOWEST_SCORE = 0.05  # as usual for COCO's average precision


class Detections(NamedTuple):
    """Detected objects, in the order of falling scores.

    Attributes:
        boxes: `(B, D, 4)` float32, "xyxy"; zeros in rows without an object.
        scores: `(B, D)` float32 in 0..1; 0 in rows without an object.
        classes: `(B, D)` int32, -1 in rows without an object.
        count: `(B,)` int32, the number of objects.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    count: Tensor


def detect(
    boxes: Tensor,
    logits: Tensor,
    *,
    size: tuple[int, int],
    score_threshold: float = LOWEST_SCORE,
    iou_threshold: float = 0.5,
    candidates: int = 300,
    detections: int = 100,
    select: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Detections:
    """The detected objects: greedy non-maximum suppression of each class separately.

    The pairs of an anchor and a class with the highest scores are the candidates. From the highest score to the lowest,
    a candidate is an object if no object of the same class overlaps it by an IoU above `iou_threshold`.

    Args:
        boxes: `(B, N, 4)`, "xyxy"; they are clipped to the image.
        logits: `(B, N, K)`; the score is their sigmoid.
        size: `(H, W)` of the image.
        score_threshold: candidates need a score above it; 0.05 as usual for COCO's average precision.
        iou_threshold: from 0 to 1.
        candidates: the number of pairs that are compared, at most N * K.
        detections: D, the number of rows of the result.
        select: from boxes `(B, N, 4)` and C indices `(B, C)` to the boxes there, `(B, C, 4)`; `ops.take_along_axis` by
            default.

    >>> boxes = [[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [5.0, 0.0, 9.0, 4.0]]]
    >>> objects = detect(boxes, [[[2.0], [1.0], [0.0]]], size=(8, 8), detections=3)
    >>> objects.count.numpy().tolist(), objects.boxes[0, :2].numpy().tolist()
    ([2], [[0.0, 0.0, 4.0, 4.0], [5.0, 0.0, 8.0, 4.0]])
    """
    boxes = ops.cast(ops.convert_to_tensor(boxes), "float32")
    scores = ops.sigmoid(ops.cast(ops.convert_to_tensor(logits), "float32"))
    height, width = size
    boxes = ops.clip(boxes, 0.0, ops.convert_to_tensor([width, height, width, height], "float32"))
    anchors, kinds = scores.shape[1:]
    scores, pair = ops.top_k(ops.reshape(scores, (-1, anchors * kinds)), min(candidates, anchors * kinds))
    select = _select if select is None else select
    boxes = select(boxes, pair // kinds)
    classes = ops.cast(pair % kinds, "int32")
    stays = _suppress(boxes, classes, scores > score_threshold, iou_threshold)
    # The objects first; candidates are already in the order of their scores.
    rows = min(detections, stays.shape[1])
    first, index = ops.top_k(ops.where(stays, scores, -1.0), rows)
    is_object = first >= 0
    objects = Detections(
        ops.where(is_object[..., None], select(boxes, index), 0.0),
        ops.where(is_object, first, 0.0),
        ops.where(is_object, ops.take_along_axis(classes, index, axis=1), NO_OBJECT),
        ops.sum(ops.cast(is_object, "int32"), axis=1),
    )
    missing = detections - rows
    return Detections(
        ops.pad(objects.boxes, [[0, 0], [0, missing], [0, 0]]),
        ops.pad(objects.scores, [[0, 0], [0, missing]]),
        ops.pad(objects.classes, [[0, 0], [0, missing]], constant_values=NO_OBJECT),
        objects.count,
    )


def _select(boxes: Tensor, indices: Tensor) -> Tensor:
    return ops.take_along_axis(boxes, indices[..., None], axis=1)


def _suppress(boxes: Tensor, classes: Tensor, is_candidate: Tensor, iou_threshold: float) -> Tensor:
    """`(B, C)` bool, which candidates stay; they are in the order of falling scores."""
    overlaps = iou(boxes[:, :, None], boxes[:, None]) > iou_threshold
    overlaps = overlaps & (classes[:, :, None] == classes[:, None])
    count = boxes.shape[1]
    indices = ops.arange(count)

    def visit(index: Tensor, stays: Tensor) -> Tensor:
        suppressed = ops.take(overlaps, index, axis=1) & (indices > index)
        visited = ops.take(stays, index, axis=1)[:, None]
        return stays & ~(suppressed & visited)

    return ops.fori_loop(0, count, visit, is_candidate)
