"""Labels of examples, and how they follow a view: a class stays as it is, boxes follow the crop and the flip.

A label is a class `()` int64, or a dictionary of `"boxes"` `(N, 4)` float32 in the format "rel_yxyx" of
`detection.boxes` (fractions of the image's sides, so that a resized image keeps its boxes) and `"classes"` `(N,)`
int64. N is fixed for a dataset: rows without an object have the class -1 and the box (0, 0, 0, 0).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import tensorflow as tf

from kd_keras.detection.boxes import NO_OBJECT, box_area
from kd_keras.errors import explain_mismatch

Label: TypeAlias = "tf.Tensor | dict[str, tf.Tensor]"

VISIBLE_SHARE = 0.25  # an object of which less is inside a view is no object of the view


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
    return boxes_in_window(label, window) if isinstance(label, dict) else label


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
        label: a class or boxes.
        index: `()` int64, the example's number, for the error message.
        name: of the source, for the error message.
        classes: K.

    Raises:
        tf.errors.InvalidArgumentError: if a class is outside 0..K-1 (-1 is allowed for boxes), or a box of an object is
            outside the image or has no area.
    """
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
