"""Mixed batches of images with boxes, a pure function of the batch and a seed: mosaics, and mixup.

A row of a mixed label is an object of one of the images, so that a label has several times as many rows.
"""

from __future__ import annotations

import tensorflow as tf

from kd_keras.data.labels import VISIBLE_SHARE, Window, boxes_in_window
from kd_keras.data.mixing import blend, draw_beta
from kd_keras.detection.boxes import NO_OBJECT

Boxes = dict[str, tf.Tensor]


def mosaic(images: tf.Tensor, label: Boxes, seed: tf.Tensor, share: float) -> tuple[tf.Tensor, Boxes]:
    """Replaces a share of the images by a window of four images, its own and three random ones of the batch.

    Bochkovskiy et al. 2020, *YOLOv4*, 2004.10934, section 3.3. Four images form a grid of twice their height and width.
    The window has the shape of an image, is 1 to 2 times as large, the same for all images of a batch, and lies at a
    random place of the grid; it is resized to the size of an image. Boxes are clipped to it, as in other crops.

    Args:
        images: `(B, H, W, C)` floating point.
        label: `boxes` `(B, N, 4)` and `classes` `(B, N)`, as `labels` describes them.
        seed: `(2,)` integer.
        share: the expected share of mosaics, from 0 to 1.

    Returns:
        Images `(B, H, W, C)`, and a label with 4 N rows.

    >>> label = {"boxes": tf.zeros((2, 3, 4)), "classes": tf.fill((2, 3), tf.constant(-1, tf.int64))}
    >>> pictures, label = mosaic(tf.zeros((2, 8, 8, 3)), label, [1, 2], 1.0)
    >>> pictures.shape, label["boxes"].shape
    (TensorShape([2, 8, 8, 3]), TensorShape([2, 12, 4]))
    """
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    choice_seed, side_seed, place_seed, *order_seeds = tf.unstack(tf.random.split(seed, 6))
    orders = [tf.argsort(tf.random.stateless_uniform((count,), order_seed)) for order_seed in order_seeds]
    four = [images, *(tf.gather(images, order) for order in orders)]
    grid = tf.concat([tf.concat(four[:2], 2), tf.concat(four[2:], 2)], 1)
    scale = tf.random.stateless_uniform((), side_seed, 1.0, 2.0)
    size = tf.cast(tf.round(scale * tf.constant([height, width], tf.float32)), tf.int32)
    free = tf.cast(tf.constant([2 * height, 2 * width]) - size + 1, tf.float32)
    starts = tf.cast(tf.floor(tf.random.stateless_uniform((count, 2), place_seed) * free), tf.int32)
    windows = tf.map_fn(
        lambda row: tf.image.resize(_slice(row[0], row[1], size), (height, width), antialias=True),
        (grid, starts),
        fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
    )
    length = tf.constant([2 * height, 2 * width], tf.float32)
    edges = tf.concat([tf.cast(corner, tf.float32) / length for corner in (starts, starts + size)], 1)
    mixed = _in_windows(_grid_label(label, orders), edges)
    is_mosaic = tf.random.stateless_uniform((count,), choice_seed) < share
    label = _with_empty_rows(label, 3)
    label = {name: _choose(is_mosaic, mixed[name], column) for name, column in label.items()}
    return _choose(is_mosaic, tf.cast(windows, images.dtype), images), label


def mixup_boxes(images: tf.Tensor, label: Boxes, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, Boxes]:
    """Blends each image with its partner as `mixing.mixup` does, and joins their objects.

    Zhang et al. 2019, *Bag of Freebies for Training Object Detection Neural Networks*, 1902.04103, without weights of
    objects, as in YOLOX. The objects of an image that contributes less than a quarter (`labels.VISIBLE_SHARE`) are
    dropped, like those of which a crop shows less.

    Args:
        images, label, seed: as for `mosaic`.
        alpha: of the distribution Beta(alpha, alpha) of the ratio, greater than 0; 1.5 as published.

    Returns:
        Images `(B, H, W, C)`, and a label with 2 N rows, first those of the image itself.

    >>> label = {"boxes": tf.zeros((2, 3, 4)), "classes": tf.fill((2, 3), tf.constant(-1, tf.int64))}
    >>> mixup_boxes(tf.zeros((2, 8, 8, 3)), label, [1, 2], 1.5)[1]["classes"].shape
    TensorShape([2, 6])
    """
    ratio = draw_beta(seed, alpha, tf.shape(images)[0])
    own = _keep_objects(label, ratio >= VISIBLE_SHARE)
    partners = _keep_objects({name: column[::-1] for name, column in label.items()}, 1 - ratio >= VISIBLE_SHARE)
    joined = {name: tf.concat([own[name], partners[name]], 1) for name in label}
    return blend(images, ratio[:, None, None, None]), joined


def _slice(image: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.slice(image, [start[0], start[1], 0], [size[0], size[1], -1])


def _grid_label(label: Boxes, orders: list[tf.Tensor]) -> Boxes:
    """The objects of the four images of a grid, as fractions of its sides: those of the first are at the top left."""
    labels = [label, *({name: tf.gather(column, order) for name, column in label.items()} for order in orders)]
    offsets = [(0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5)]
    boxes = [part["boxes"] / 2 + tf.constant(2 * offset) for part, offset in zip(labels, offsets, strict=True)]
    return {"boxes": tf.concat(boxes, 1), "classes": tf.concat([part["classes"] for part in labels], 1)}


def _in_windows(label: Boxes, edges: tf.Tensor) -> Boxes:
    """The labels of windows, whose edges are `(B, 4)`."""
    spec = tf.nest.map_structure(lambda column: tf.TensorSpec(column.shape[1:], column.dtype), label)
    return tf.map_fn(
        lambda row: boxes_in_window(row[0], Window(row[1], tf.constant(False))),
        (label, edges),
        fn_output_signature=spec,
    )


def _keep_objects(label: Boxes, keeps: tf.Tensor) -> Boxes:
    """A label whose objects are rows without an object in those images `(B,)` that do not keep them."""
    boxes = tf.where(keeps[:, None, None], label["boxes"], 0.0)
    return {"boxes": boxes, "classes": tf.where(keeps[:, None], label["classes"], NO_OBJECT)}


def _with_empty_rows(label: Boxes, times: int) -> Boxes:
    """A label of N rows with `times` N further rows that have no object."""
    classes = tf.fill(tf.shape(label["classes"]), tf.constant(NO_OBJECT, label["classes"].dtype))
    empty = {"boxes": tf.zeros_like(label["boxes"]), "classes": classes}
    return {name: tf.concat([column, *[empty[name]] * times], 1) for name, column in label.items()}


def _choose(chosen: tf.Tensor, values: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """For each example of a batch, its row of `values` if it is chosen, else its row of `others`."""
    return tf.where(tf.reshape(chosen, [-1] + [1] * (values.shape.rank - 1)), values, others)
