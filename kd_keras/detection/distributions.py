"""Boxes whose edges are distributions: the distance from a position to each edge, as probabilities of bins.

Li et al. 2020, *Generalized Focal Loss*, 2006.04388. Distances are in strides of the position's level; bin i is a
distance of i.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops

from kd_keras.contracts import Tensor

BINS = 17  # distances from 0 to 16 strides


def square_anchors(map_sizes: Sequence[tuple[int, int]], strides: Sequence[int], scale: float = 8.0) -> np.ndarray:
    """One square for each position, `scale` strides wide, by which positions are matched with objects.

    Centers are in the middle of the position's pixels, where `anchors.make_anchors` has them.

    Args:
        map_sizes: `(H, W)` of the map of each level.
        strides: of each level, in pixels.
        scale: above 0; 8 in ATSS and GFL.

    Returns:
        `(N, 4)` float32, "xyxy" in pixels: levels one after the other, in each row by row.

    >>> square_anchors([(1, 2)], [8], 2.0).tolist()
    [[-4.0, -4.0, 12.0, 12.0], [4.0, -4.0, 20.0, 12.0]]
    """
    levels = []
    for (height, width), stride in zip(map_sizes, strides, strict=True):
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        centers = (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * stride
        half = scale * stride / 2
        levels.append(np.concatenate([centers - half, centers + half], -1))
    return np.concatenate(levels).astype("float32")


def expected_distances(logits: Tensor) -> Tensor:
    """The mean of each edge's distribution, sum_i i softmax(z)_i: `(..., bins)` to `(...)` float32.

    >>> float(expected_distances([0.0, 0.0, 0.0]))
    1.0
    """
    logits = ops.cast(ops.convert_to_tensor(logits), "float32")
    return ops.sum(ops.softmax(logits, axis=-1) * ops.arange(logits.shape[-1], dtype="float32"), axis=-1)


def boxes_at(distances: Tensor, centers: Tensor, strides: Tensor) -> Tensor:
    """Boxes from the distances of their edges.

    Args:
        distances: `(..., N, 4)` from a center to the left, the upper, the right and the lower edge, in strides.
        centers: `(N, 2)`, x and y in pixels.
        strides: `(N, 1)` in pixels.

    Returns:
        `(..., N, 4)` float32, "xyxy" in pixels, not clipped to the image.

    >>> boxes_at([[1.0, 0.0, 0.5, 2.0]], [[12.0, 4.0]], [[8.0]]).numpy().tolist()
    [[4.0, 4.0, 16.0, 20.0]]
    """
    pixels = ops.cast(ops.convert_to_tensor(distances), "float32") * strides
    return ops.concatenate([centers - pixels[..., :2], centers + pixels[..., 2:]], axis=-1)


def distances_of(boxes: Tensor, centers: Tensor, strides: Tensor, *, bins: int = BINS) -> Tensor:
    """The inverse of `boxes_at`, limited to 0..bins - 1.1 as in mmdetection, so that each has a bin on both sides.

    >>> distances_of([[4.0, 4.0, 16.0, 20.0]], [[12.0, 4.0]], [[8.0]]).numpy().tolist()
    [[1.0, 0.0, 0.5, 2.0]]
    """
    boxes = ops.cast(ops.convert_to_tensor(boxes), "float32")
    distances = ops.concatenate([centers - boxes[..., :2], boxes[..., 2:] - centers], axis=-1) / strides
    return ops.clip(distances, 0.0, bins - 1.1)
