"""Labels of examples, and how they follow a view: a class stays as it is, boxes and masks follow the crop and the flip.

A label is a class `()` int64, or a dictionary of `"boxes"` `(N, 4)` float32 in the format "rel_yxyx" of
`detection.boxes` (fractions of the image's sides, so that a resized image keeps its boxes) and `"classes"` `(N,)`
int64. N is fixed for a dataset: rows without an object have the class -1 and the box (0, 0, 0, 0). Or it is a mask
`(H, W)` int32, the class of each pixel, `IGNORED` (-1) if it belongs to no class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from kd_keras.contracts import IGNORED
from kd_keras.detection.boxes import NO_OBJECT, box_area
from kd_keras.errors import explain_mismatch

Label: TypeAlias = "tf.Tensor | dict[str, tf.Tensor]"

VISIBLE_SHARE = 0.25  # an object is dropped from a view that shows less of its box


class Window(NamedTuple):
    """The part of an image that a view shows.

    Attributes:
        edges: `(4,)` float32, ymin, xmin, ymax and xmax as fractions of the image's sides; a view that is padded begins
            below 0 or ends above 1.
        is_flipped: `()` bool, whether left and right are exchanged.
    """

    edges: tf.Tensor
    is_flipped: tf.Tensor


def whole_image() -> Window:
    """The window of a view that shows the whole image."""
    return Window(tf.constant([0.0, 0.0, 1.0, 1.0]), tf.constant(False))


def label_in_window(label: Label, window: Window) -> Label:
    """The label of a view."""
    if isinstance(label, dict):
        return boxes_in_window(label, window)
    return mask_in_window(label, window) if label.shape.rank == 2 else label


def mask_in_window(mask: tf.Tensor, window: Window, size: Sequence[int] | None = None) -> tf.Tensor:
    """A mask in a window, by nearest neighbor with half-pixel centers; what is outside the image is `IGNORED`.

    Args:
        mask: `(H, W)` int32.
        window: the part of the image.
        size: `(h, w)` of the view; by default the mask's own size.

    Returns:
        `(h, w)` int32.

    >>> mask = tf.constant([[0, 1, 2, 3]])
    >>> mask_in_window(mask, Window(tf.constant([0.0, 0.25, 1.0, 1.25]), tf.constant(True))).numpy().tolist()
    [[-1, 3, 2, 1]]
    """
    size = mask.shape if size is None else size
    lengths = tf.shape(mask)
    positions = []
    for axis in (0, 1):
        start, end, length = window.edges[axis], window.edges[axis + 2], tf.cast(lengths[axis], tf.float32)
        cells = tf.cast(size[axis] if size[axis] is not None else lengths[axis], tf.float32)
        centers = (tf.range(cells) + 0.5) / cells
        centers = tf.where(window.is_flipped, 1 - centers, centers) if axis == 1 else centers
        positions.append(tf.cast(tf.floor((start + centers * (end - start)) * length), tf.int32))
    inside = [(position >= 0) & (position < lengths[axis]) for axis, position in enumerate(positions)]
    rows, columns = (tf.clip_by_value(position, 0, lengths[axis] - 1) for axis, position in enumerate(positions))
    view = tf.gather(tf.gather(mask, rows), columns, axis=1)
    return tf.ensure_shape(tf.where(inside[0][:, None] & inside[1][None], view, IGNORED), size)


def boxes_in_window(
    label: dict[str, tf.Tensor], window: Window, visible_share: float = VISIBLE_SHARE
) -> dict[str, tf.Tensor]:
    """Boxes as fractions of a window, clipped to it.

    An object becomes a row without an object if less than `visible_share` of the area of its box is inside the window,
    or none of it.

    Args:
        label: `boxes` `(N, 4)` and `classes` `(N,)`.
        window: the part of the image.
        visible_share: from 0 to 1.

    >>> label = {"boxes": tf.constant([[0.0, 0.25, 0.5, 0.75]]), "classes": tf.constant([2], tf.int64)}
    >>> boxes_in_window(label, Window(tf.constant([0.0, 0.5, 1.0, 1.0]), tf.constant(False)))["boxes"].numpy().tolist()
    [[0.0, 0.0, 0.5, 0.5]]
    """
    start, sides = tf.tile(window.edges[:2], [2]), tf.tile(window.edges[2:] - window.edges[:2], [2])
    moved = (label["boxes"] - start) / sides
    ymin, xmin, ymax, xmax = tf.unstack(moved, axis=-1)
    mirrored = tf.stack([ymin, 1 - xmax, ymax, 1 - xmin], axis=-1)
    moved = tf.where(window.is_flipped, mirrored, moved)
    clipped = tf.clip_by_value(moved, 0.0, 1.0)
    visible, total = box_area(clipped), box_area(moved)
    # Rounding must not remove an object that is completely inside.
    stays = (label["classes"] != NO_OBJECT) & (visible > 0) & (visible >= (visible_share - 1e-5) * total)
    return {
        "boxes": tf.where(stays[:, None], clipped, 0.0),
        "classes": tf.where(stays, label["classes"], NO_OBJECT),
    }


def check_label(label: Label, index: tf.Tensor, name: str, classes: int) -> Label:
    """The label of an example, checked when it is read.

    Args:
        label: a class, boxes or a mask.
        index: `()` int64, the example's number, for the error message.
        name: of the source, for the error message.
        classes: K.

    Raises:
        tf.errors.InvalidArgumentError: if a class is outside 0..K-1 (-1 is allowed for boxes and masks), or a box of an
            object is outside the image or has no area.
    """
    if not isinstance(label, dict) and label.shape.rank == 2:
        is_known = (label == IGNORED) | ((label >= 0) & (label < classes))
        wrong = tf.unique(tf.boolean_mask(label, ~is_known))[0]
        expected = f"{_expected_classes(name, classes)}, or {IGNORED} for no class, at each pixel"
        return _check(tf.shape(wrong)[0] == 0, label, wrong, index, expected)
    if not isinstance(label, dict):
        return _check((label >= 0) & (label < classes), label, label, index, _expected_classes(name, classes))
    boxes, numbers = label["boxes"], label["classes"]
    is_object = numbers != NO_OBJECT
    is_known = tf.reduce_all(~is_object | ((numbers >= 0) & (numbers < classes)))
    numbers = _check(is_known, numbers, numbers, index, f"{_expected_classes(name, classes)}, or -1 for no object")
    inside = tf.reduce_all((boxes >= 0) & (boxes <= 1), -1) & (box_area(boxes) > 0)
    wrong = tf.boolean_mask(boxes, is_object & ~inside)
    expected = f"boxes (ymin, xmin, ymax, xmax) in 0..1 with a positive height and width in {name}"
    return {"boxes": _check(tf.shape(wrong)[0] == 0, boxes, wrong, index, expected), "classes": numbers}


def _expected_classes(name: str, classes: int) -> str:
    return f"a label of 0 to {classes - 1}, the classes of {name}"


def _check(holds: tf.Tensor, value: tf.Tensor, received: tf.Tensor, index: tf.Tensor, expected: str) -> tf.Tensor:
    message = tf.strings.format(explain_mismatch(expected, "{} at example {}"), (received, index))
    with tf.control_dependencies([tf.debugging.Assert(holds, [message])]):
        return tf.identity(value)
