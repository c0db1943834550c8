"""Turns stored examples into batches for Keras: views, float pixels, labels, mixing, and slices for replicas."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kd_keras.contracts import INDEX, INPUTS, RECORDED
from kd_keras.data.augment import Augmentation
from kd_keras.data.base import ImageAugmentation, RecordedOutputs, Source
from kd_keras.data.settings import ViewSettings
from kd_keras.distribute.slices import BatchSlice
from kd_keras.errors import explain_mismatch, shorten

WHOLE_BATCH = BatchSlice()


class BatchMaker:
    """Makes batches of stored examples: float32 images 0..255, labels, and outputs that are joined by index.

    Args:
        source: where the examples come from.
        views: the augmentation.
        one_hot: whether labels are `(B, K)` float32; always so if batches are mixed and labels are classes.
        with_index: whether batches contain the example numbers.
        recorded: the teacher's outputs to join, or `None`.

    Raises:
        ValueError: if labels must be one-hot, but the source has no labels or no number of classes; or if labels are
            boxes or masks, which cannot be one-hot, mixed, or follow such an augmentation.
    """

    def __init__(
        self,
        source: Source,
        views: ViewSettings,
        one_hot: bool,
        with_index: bool,
        recorded: RecordedOutputs | None = None,
    ):
        self.views, self.recorded, self.classes = views, recorded, source.classes
        self.one_hot = one_hot or (views.mixes_batches and source.has_labels and not source.has_boxes)
        self.with_index = with_index or recorded is not None
        if source.has_boxes or source.has_masks:
            check_label_can_follow(source, views, self.one_hot)
        if getattr(views.augmentation, "mosaic", 0) and not source.has_boxes:
            expected = f"images with boxes for mosaic, which joins four images in {source.name}"
            raise ValueError(
                explain_mismatch(expected, source.label_kind or "images without labels", "leave mosaic out")
            )
        if self.one_hot and not (source.has_labels and self.classes):
            received = f"{source.name}, which has {self.classes or 'no'} classes"
            received += "" if source.has_labels else " and no labels"
            raise ValueError(explain_mismatch("labels and a number of classes, for one-hot labels", received))

    def __call__(
        self,
        rows: dict[str, tf.Tensor],
        view_seed: tf.Tensor | None = None,
        number: Any = None,
        view: tf.Tensor | None = None,
    ) -> Any:
        """Makes one batch.

        Args:
            rows: stored examples, columns `(B, ...)`.
            view_seed: the seed `(2,)` of the view; needed only with an augmentation.
            number: the batch's number () in its epoch; needed only with an augmentation.
            view: the number () of the view; needed only with recorded outputs.

        Returns:
            `(x, y)`, or `x` if there are no labels; y is a dictionary of `boxes` and `classes` if labels are boxes,
            and `(B, H, W)` int32 if they are masks.
        """
        images, label = rows["image"], rows.get("label")
        augmentation = self.views.augmentation
        if augmentation is not None and augmentation.changes_images:
            images, label = _augment(images, label, rows["index"], view_seed, augmentation)
        images = tf.cast(images, tf.float32)
        if self.one_hot:
            label = tf.one_hot(label, self.classes)
        if augmentation is not None and augmentation.mixes:
            # Examples count from 0 upwards, batches from -1 downwards: no seed is used twice.
            images, label = augmentation.mix(images, label, tf.random.fold_in(view_seed, -1 - number))
        x = {INPUTS: images, INDEX: rows["index"]} if self.with_index else images
        if self.recorded is not None:
            x[RECORDED] = self.recorded(view, rows["index"])
        return x if label is None else (x, label)


def check_label_can_follow(source: Source, views: ViewSettings, one_hot: bool) -> None:
    """Checks that the boxes or masks of a source can follow its views.

    Raises:
        ValueError: if they cannot.
    """
    augmentation, kind = views.augmentation, source.label_kind
    is_cut = source.has_boxes and getattr(augmentation, "cutmix", 0) > 0
    if one_hot or is_cut:
        received = "cutmix" if is_cut else "one_hot=True, mixup, cutmix or mosaic"
        advice = f"a label has a class for each {'box' if source.has_boxes else 'pixel'}: leave these out"
        raise ValueError(explain_mismatch(f"labels with {kind} as they are for {source.name}", received, advice))
    if augmentation is None or not (augmentation.changes_images or augmentation.mixes):
        return
    if not isinstance(augmentation, Augmentation) or augmentation.rand_augment:
        names = "crop, shift, resized_crop, scale and flip" + ", mixup and mosaic" * source.has_boxes
        expected = f"an Augmentation of {names}, which the {kind} of {source.name} can follow"
        raise ValueError(explain_mismatch(expected, shorten(augmentation)))


def _augment(
    images: tf.Tensor,
    label: Any,
    index: tf.Tensor,
    view_seed: tf.Tensor | None,
    augmentation: ImageAugmentation,
) -> tuple[tf.Tensor, Any]:
    # One image after the other: batches already run in parallel, and a view is a function of a single image.
    spec = tf.TensorSpec(images.shape[1:], images.dtype)
    moves = isinstance(label, dict) or (label is not None and label.shape.rank == 3)
    if isinstance(augmentation, Augmentation) and moves:
        view_with_label = augmentation.view_with_label
        label_spec = tf.nest.map_structure(lambda column: tf.TensorSpec(column.shape[1:], column.dtype), label)
        return tf.map_fn(
            lambda row: view_with_label(row[0], row[1], tf.random.fold_in(view_seed, row[2])),
            (images, label, index),
            fn_output_signature=(spec, label_spec),
        )
    views = tf.map_fn(
        lambda pair: augmentation.view(pair[0], tf.random.fold_in(view_seed, pair[1])),
        (images, index),
        fn_output_signature=spec,
    )
    return views, label


def cut_slices(batch: Any, batch_slice: BatchSlice) -> tf.data.Dataset:
    """The slices of one global batch, one after the other; scalars are repeated in every slice.

    >>> [rows.numpy().tolist() for rows in cut_slices(tf.range(5), BatchSlice(0, 2, 2))]
    [[0, 1], [2, 3, 4]]
    """
    columns = [column for column in tf.nest.flatten(batch) if column.shape.rank]
    size, static_size = tf.shape(columns[0], tf.int64)[0], columns[0].shape[0]
    divides = static_size and static_size % batch_slice.total == 0
    length = static_size // batch_slice.total if divides else None

    def cut(number: tf.Tensor) -> Any:
        def cut_column(column: tf.Tensor) -> tf.Tensor:
            if not column.shape.rank:
                return column
            rows = column[number * size // batch_slice.total : (number + 1) * size // batch_slice.total]
            return tf.ensure_shape(rows, (length, *column.shape[1:]))

        return tf.nest.map_structure(cut_column, batch)

    return tf.data.Dataset.range(batch_slice.first, batch_slice.first + batch_slice.count).map(cut)


def pad_batch(x: Any, y: Any, size: int) -> tuple[Any, Any, tf.Tensor]:
    """Repeats the last row until a batch has `size` rows, and adds weights `(size,)`: 0 for these copies, else 1.

    >>> pad_batch(tf.zeros((2, 4)), tf.constant([1, 2]), 3)[2].numpy().tolist()
    [1.0, 1.0, 0.0]
    """
    count = tf.shape(tf.nest.flatten(y)[0])[0]
    rows = tf.minimum(tf.range(size), count - 1)
    x, y = tf.nest.map_structure(lambda column: tf.gather(column, rows), (x, y))
    return x, y, tf.cast(tf.range(size) < count, tf.float32)


def unpack_single(batch: tuple) -> Any:
    """The batch that tf.data passed to a function as `*batch`, which unpacks a tuple but no other structure."""
    return batch[0] if len(batch) == 1 else batch
