"""Where the classes of an image meet: the pixels of two masks whose boundaries are near to each other."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from kd_keras.contracts import IGNORED

TOLERANCE = 0.0075  # a share of the image's diagonal, as in the paper


def count_boundaries(
    truth: np.ndarray, predicted: np.ndarray, classes: int, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Counts the boundary pixels of each class in an image.

    Csurka, Larlus, Perronnin 2013, *What is a good evaluation measure for semantic segmentation?*, BMVC, section 3.3. A
    pixel of a class is on its boundary if one of its four neighbors has another class; the edge of the image and
    ignored pixels make no boundary.

    Args:
        truth: `(H, W)` integers, `IGNORED` for pixels without a class.
        predicted: `(H, W)` integers.
        classes: K.
        tolerance: the largest distance of boundaries that match, a share of the image's diagonal; at least one pixel.

    Returns:
        `(K, 4)` int64 for each class: predicted boundary pixels near to a true one, predicted ones, true ones near to a
        predicted one, true ones.

    >>> count_boundaries(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]), 2).tolist()
    [[1, 1, 1, 1], [1, 1, 1, 1]]
    """
    valid = truth != IGNORED
    disc = _disc(max(1.0, tolerance * float(np.hypot(*truth.shape))))
    counts = np.zeros((classes, 4), "int64")
    present = np.union1d(truth[valid], predicted[valid])
    for k in present.astype(int):
        edges = [_boundary(mask == k, valid) for mask in (predicted, truth)]
        near = [_grow(edge, disc) for edge in edges]
        counts[k] = [(edges[0] & near[1]).sum(), edges[0].sum(), (edges[1] & near[0]).sum(), edges[1].sum()]
    return counts


def _boundary(inside: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The pixels of a class with a valid neighbor of another class."""
    inside, outside = inside & valid, ~inside & valid
    edge = np.zeros_like(inside)
    for axis in (0, 1):
        first, second = (np.moveaxis(mask, axis, 0) for mask in (inside, outside))
        along = np.moveaxis(edge, axis, 0)
        along[1:] |= first[1:] & second[:-1]
        along[:-1] |= first[:-1] & second[1:]
    return edge


def _grow(edge: np.ndarray, disc: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(edge, disc) if edge.any() else edge


def _disc(radius: float) -> np.ndarray:
    """The pixels within a distance of the middle one."""
    reach = int(radius)
    offsets = np.arange(-reach, reach + 1)
    return offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2
