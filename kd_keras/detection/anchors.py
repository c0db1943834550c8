"""Anchors: boxes of several sizes and shapes at every position of every level, and boxes as offsets from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from kd_keras.contracts import Tensor

RATIOS = (0.5, 1.0, 2.0)  # height divided by width
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
PER_POSITION = len(RATIOS) * len(OCTAVES)
LARGEST_LOG_RATIO = math.log(1000 / 16)  # of a decoded box to its anchor, as in Detectron


def make_anchors(
    map_sizes: Sequence[tuple[int, int]], strides: Sequence[int], scale: float = 4.0, *, whole: bool = False
) -> np.ndarray:
    """The anchors of RetinaNet: Lin et al. 2017, *Focal Loss for Dense Object Detection*, 1708.02002, section 4.

    At each position there are nine: areas of (scale * stride * 2^(i/3))^2 for i = 0, 1, 2, and heights of 1/2, 1 and 2
    times the width. Centers are in the middle of the position's pixels. With the paper's scale of 4 the smallest anchor
    of stride 8 is 32 pixels wide; small images need a smaller scale.

    Args:
        map_sizes: `(H, W)` of the map of each level.
        strides: of each level, in pixels.
        scale: above 0.
        whole: whether anchors are those of torchvision and KerasHub: sides are cut and corners are rounded to whole
            pixels, and centers are in the top left corner of the position.

    Returns:
        `(N, 4)` float32 in the format "xyxy", in pixels: levels one after the other, in each row by row, and at each
        position by ratio, then by area.

    >>> make_anchors([(1, 2)], [8])[[3, 12]].tolist()  # the smallest square of each position
    [[-12.0, -12.0, 20.0, 20.0], [-4.0, -12.0, 28.0, 20.0]]
    """
    levels = []
    for (height, width), stride in zip(map_sizes, strides, strict=True):
        squares = [int(scale * stride * octave) if whole else scale * stride * octave for octave in OCTAVES]
        sides = [(square * ratio**-0.5, square * ratio**0.5) for ratio in RATIOS for square in squares]
        corners = np.array(sides) / 2  # (9, 2), the lower right ones, from the center
        corners = np.round(corners) if whole else corners
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        centers = (np.stack([columns, rows], -1)[:, :, None] + (0.0 if whole else 0.5)) * stride
        levels.append(np.concatenate([centers - corners, centers + corners], -1).reshape(-1, 4))
    return np.concatenate(levels).astype("float32")


def decode_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes from their offsets (dx, dy, log w, log h), in units of their anchors.

    Girshick et al. 2014, *Rich feature hierarchies*, 1311.2524, appendix C, without variances. A box is at most 1000/16
    times as wide or high as its anchor.

    Args:
        deltas: `(..., N, 4)`.
        anchors: `(N, 4)`, "xyxy".

    Returns:
        `(..., N, 4)` float32, "xyxy" in pixels, not clipped to the image.

    >>> decode_deltas([[0.5, 0.0, 0.0, 0.0]], [[0.0, 0.0, 4.0, 8.0]]).numpy().tolist()
    [[2.0, 0.0, 6.0, 8.0]]
    """
    deltas = ops.cast(ops.convert_to_tensor(deltas), "float32")
    center, sides = _center_and_sides(anchors)
    middle = center + deltas[..., :2] * sides
    half = sides * ops.exp(ops.minimum(deltas[..., 2:], LARGEST_LOG_RATIO)) / 2
    return ops.concatenate([middle - half, middle + half], axis=-1)


def encode_deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `decode_deltas`, for boxes of a positive width and height.

    >>> encode_deltas([[2.0, 0.0, 6.0, 8.0]], [[0.0, 0.0, 4.0, 8.0]]).numpy().tolist()
    [[0.5, 0.0, 0.0, 0.0]]
    """
    center, sides = _center_and_sides(anchors)
    box_center, box_sides = _center_and_sides(boxes)
    return ops.concatenate([(box_center - center) / sides, ops.log(box_sides / sides)], axis=-1)


def _center_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    boxes = ops.cast(ops.convert_to_tensor(boxes), "float32")
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
