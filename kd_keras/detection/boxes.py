"""Box formats and their conversion, IoU and GIoU, in `keras.ops` and float32.

The formats are named as in KerasHub; "rel" means fractions of the image's height and width, else numbers are pixels.
The origin is the upper left corner of the upper left pixel, so that a box of the whole image is (0, 0, W, H).

* `"rel_yxyx"`: ymin, xmin, ymax, xmax, as `tfds.features.BBox`; the format of labels in this project;
* `"xyxy"`: xmin, ymin, xmax, ymax, as Pascal VOC; the format of anchors and of decoded boxes;
* `"xywh"`: xmin, ymin, width, height, as COCO;
* `"rel_center_xywh"`: center x, center y, width, height, as YOLO.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.errors import check_choice, explain_mismatch

BoxFormat: TypeAlias = Literal["rel_yxyx", "xyxy", "xywh", "rel_center_xywh"]
FORMATS = get_args(BoxFormat)
NO_OBJECT = -1  # the class of a row of padded boxes without an object


def convert_boxes(boxes: Tensor, source: BoxFormat, target: BoxFormat, size: tuple[int, int] | None = None) -> Tensor:
    """Converts boxes from one format to another, without clipping.

    Args:
        boxes: `(..., 4)` numbers in the format `source`.
        source: one of `FORMATS`.
        target: one of `FORMATS`.
        size: `(H, W)` of the image; needed if one of the formats is relative and the other is not.

    Returns:
        `(..., 4)` float32.

    Raises:
        ValueError: if a format is unknown, or the size is needed and missing.

    >>> convert_boxes([[0.25, 0.5, 0.75, 1.0]], "rel_yxyx", "xywh", size=(8, 4)).numpy().tolist()
    [[2.0, 2.0, 2.0, 4.0]]
    """
    check_choice("convert_boxes", "source", source, FORMATS)
    check_choice("convert_boxes", "target", target, FORMATS)
    x0, y0, x1, y1 = _corners(ops.cast(boxes, "float32"), source)
    was_relative, is_relative = source.startswith("rel"), target.startswith("rel")
    if was_relative != is_relative:
        if size is None:
            expected = f"the image's size=(height, width) to convert boxes from {source!r} to {target!r}"
            raise ValueError(explain_mismatch(expected, "size=None"))
        height, width = (ops.cast(length, "float32") for length in size)
        x0, x1 = (x / width if is_relative else x * width for x in (x0, x1))
        y0, y1 = (y / height if is_relative else y * height for y in (y0, y1))
    if target == "rel_yxyx":
        return ops.stack([y0, x0, y1, x1], axis=-1)
    if target == "xyxy":
        return ops.stack([x0, y0, x1, y1], axis=-1)
    first = (x0, y0) if target == "xywh" else ((x0 + x1) / 2, (y0 + y1) / 2)
    return ops.stack([*first, x1 - x0, y1 - y0], axis=-1)


def _corners(boxes: Tensor, source: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xmin, ymin, xmax and ymax, in the units of the source."""
    a, b, c, d = (boxes[..., number] for number in range(4))
    if source == "rel_yxyx":
        return b, a, d, c
    if source == "xyxy":
        return a, b, c, d
    if source == "xywh":
        return a, b, a + c, b + d
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


def box_area(boxes: Tensor) -> Tensor:
    """The area of boxes `(..., 4)` that are given by two corners; 0 if a side is not positive: `(...)`.

    >>> float(box_area([0.0, 0.0, 2.0, 3.0]))
    6.0
    """
    (boxes,) = _as_float(boxes)
    sides = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The area of the intersection divided by the area of the union; 0 if both boxes are empty.

    Both arguments are in the same format of two corners ("xyxy" or "rel_yxyx") and broadcast: of `(N, 1, 4)` and
    `(M, 4)` the result is `(N, M)`.

    Args:
        boxes: `(..., 4)`.
        others: `(..., 4)`.

    Returns:
        `(...)` float32 in 0..1.

    >>> float(iou([0.0, 0.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]))  # 2 / 6
    0.3333333432674408
    """
    return _iou_and_union(*_as_float(boxes, others))[0]


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalized IoU: IoU - (C - U) / C, where U is the area of the union and C that of the smallest enclosing box.

    Rezatofighi et al. 2019, *Generalized Intersection over Union*, 1902.09630, algorithm 1. Arguments as for `iou`.

    Returns:
        `(...)` float32 in -1..1; the IoU if the enclosing box is empty.

    >>> float(giou([0.0, 0.0, 1.0, 1.0], [0.0, 2.0, 1.0, 3.0]))  # 0 - (3 - 2) / 3
    -0.3333333432674408
    """
    boxes, others = _as_float(boxes, others)
    value, union = _iou_and_union(boxes, others)
    low, high = ops.minimum(boxes[..., :2], others[..., :2]), ops.maximum(boxes[..., 2:], others[..., 2:])
    enclosing = box_area(ops.concatenate([low, high], axis=-1))
    return value - _ratio(enclosing - union, enclosing)


def diou(boxes: Tensor, others: Tensor) -> Tensor:
    """Distance IoU: IoU - d^2 / c^2 with d the distance of the centers and c the diagonal of the enclosing box.

    Zheng et al. 2020, *Distance-IoU Loss*, 1911.08287, equation 7. Arguments as for `iou`.

    Returns:
        `(...)` float32 in -1..1; the IoU if the enclosing box is empty.

    >>> float(diou([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 2.0]))  # 0 - 1 / (1 + 4)
    -0.20000000298023224
    """
    boxes, others = _as_float(boxes, others)
    value, _ = _iou_and_union(boxes, others)
    low, high = ops.minimum(boxes[..., :2], others[..., :2]), ops.maximum(boxes[..., 2:], others[..., 2:])
    twice = boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]  # the distance of the centers
    return value - _ratio(ops.sum(ops.square(twice), axis=-1) / 4, ops.sum(ops.square(high - low), axis=-1))


def _as_float(*arrays: Tensor) -> list[Tensor]:
    return [ops.cast(ops.convert_to_tensor(array), "float32") for array in arrays]


def _iou_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    low, high = ops.maximum(boxes[..., :2], others[..., :2]), ops.minimum(boxes[..., 2:], others[..., 2:])
    shared = box_area(ops.concatenate([low, high], axis=-1))
    union = box_area(boxes) + box_area(others) - shared
    return _ratio(shared, union), union


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, and 0 without a gradient if the whole is 0."""
    is_zero = whole <= 0  # NaN is not
    return ops.where(is_zero, 0.0, part / ops.where(is_zero, 1.0, whole))
