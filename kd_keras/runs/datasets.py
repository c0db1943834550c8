"""Reads a `tf.data.Dataset` that the user passes as a source of examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tensorflow as tf

from kd_keras.data import Source


def source_from(dataset: tf.data.Dataset, name: str = "tf.data.Dataset") -> Source:
    """Makes a source of a dataset, which is read once to count its examples and classes.

    Args:
        dataset: examples or batches of them: `image`, `(image, label)`, or dictionaries with the keys "image" and
            "label". Images are `(H, W, C)` or `(B, H, W, C)` of any dtype with values in 0..255, which are rounded;
            labels are whole numbers `()` or one-hot `(K,)`. The dataset must be finite and yield the same order every
            time; the pipeline shuffles it.
        name: the name of the source.

    Raises:
        ValueError: if the elements have another form, there are none, or a value is outside of 0..255.

    >>> images, labels = tf.zeros((6, 8, 8, 1)), tf.constant([0, 1, 2, 0, 1, 2])
    >>> source = source_from(tf.data.Dataset.from_tensor_slices((images, labels)).batch(4))
    >>> source.size, source.classes, source.image_shape
    (6, 3, (8, 8, 1))
    """
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"{name} must be finite, but it has no end. Pass it without repeat(), because the pipeline repeats it."
        )
    split, batched, classes = _reader(dataset.element_spec, name)
    examples = dataset.map(split)
    examples = examples.unbatch() if batched else examples

    def numbered(index: tf.Tensor, example: dict) -> dict:
        return {**example, "index": index, "image": tf.cast(tf.round(tf.cast(example["image"], tf.float32)), tf.uint8)}

    size, lowest, highest, last_class = _measure(examples)
    if not size:
        raise ValueError(f"{name} must have at least one example, but it has no examples. Check how it is filtered.")
    is_integer = examples.element_spec["image"].dtype.is_integer  # integers may be as dark as 0..1
    if lowest < 0 or highest > 255 or (0 < highest <= 1 and not is_integer):
        raise ValueError(
            f"{name} must have pixel values in 0..255, but received values in {lowest:g}..{highest:g}. Scale them to "
            "0..255, because every network contains its own normalization."
        )
    shape = examples.element_spec["image"].shape
    return Source(
        examples.enumerate().map(numbered, tf.data.AUTOTUNE, deterministic=True),
        name=name,
        size=size,
        classes=(classes or last_class + 1) if "label" in examples.element_spec else None,
        image_shape=None if None in shape else tuple(shape),
    )


def unify_classes(train: Source, test: Source) -> tuple[Source, Source]:
    """Gives both sources the larger number of classes, because a dataset shows only its highest label."""
    classes = max(train.classes or 0, test.classes or 0) or None
    return (
        replace(train, classes=classes if train.has_labels else None),
        replace(test, classes=classes if test.has_labels else None),
    )


def _reader(spec: Any, name: str) -> tuple[Callable[..., dict], bool, int | None]:
    """For elements of a specification, how to read them.

    Returns:
        A function from an element to a dictionary of image and label, whether an element is a batch, and the number of
        classes of one-hot labels or `None`.
    """
    keyed = isinstance(spec, dict) and "image" in spec
    parts = [spec["image"], spec.get("label")] if keyed else list(spec) if isinstance(spec, tuple) else [spec]
    image, label = parts[0], parts[1] if len(parts) == 2 else None
    rank = image.shape.rank if isinstance(image, tf.TensorSpec) else None
    if rank not in (3, 4) or len(parts) > 2 or image.shape[-1] is None:
        raise ValueError(
            f"{name} must give images (H, W, C) or batches of them, with or without labels, but it gives {spec}. Map it"
            " to (image, label) or to image."
        )
    one_hot = label is not None and label.shape.rank == rank - 2 and (label.shape[-1] or 1) > 1
    squeezed = label is not None and label.shape.rank == rank - 2 and label.shape[-1] == 1

    def split(*element: Any) -> dict:
        pair = [element[0]["image"], element[0].get("label")] if keyed else element
        if label is None:
            return {"image": pair[0]}
        value = tf.argmax(pair[1], -1) if one_hot else pair[1][..., 0] if squeezed else pair[1]
        return {"image": pair[0], "label": tf.cast(value, tf.int64)}

    return split, rank == 4, label.shape[-1] if label is not None and one_hot else None


def _measure(examples: tf.data.Dataset) -> tuple[int, float, float, int]:
    """The number of examples, the lowest and the highest pixel, and the highest label."""

    def add(state: tuple, example: dict) -> tuple:
        count, lowest, highest, label = state
        pixels = tf.cast(example["image"], tf.float32)
        return (
            count + 1,
            tf.minimum(lowest, tf.reduce_min(pixels)),
            tf.maximum(highest, tf.reduce_max(pixels)),
            tf.maximum(label, example.get("label", tf.constant(-1, tf.int64))),
        )

    start = tf.constant(0), tf.constant(float("inf")), tf.constant(float("-inf")), tf.constant(-1, tf.int64)
    count, lowest, highest, label = examples.reduce(start, add)
    return int(count), float(lowest), float(highest), int(label)
