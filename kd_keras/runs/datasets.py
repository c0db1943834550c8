"""Reads a `tf.data.Dataset` that the user passes as a source of examples."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import tensorflow as tf

from kd_keras.data import Source

COMPARED = 1000  # examples of the first pass with which the second one is compared


def source_from(dataset: tf.data.Dataset, name: str = "tf.data.Dataset") -> Source:
    """Makes a source from a dataset, which is read once to count its examples and classes.

    Args:
        dataset: examples or batches of them: `image`, `(image, label)`, or dictionaries with the keys "image" and
            "label". Images are `(H, W, C)` or `(B, H, W, C)` of any numeric dtype with values in 0..255, which are
            rounded. Floating-point images in 0..1 are refused. Labels are whole numbers `()` or one-hot `(K,)`. The
            dataset must be finite and yield the same order every time; the pipeline shuffles it. There is a warning if
            the first examples of a second pass are others, and recordings then refuse the source. There is a warning if
            no example has label 0, because the labels may count from 1.
        name: the name of the source.

    Raises:
        ValueError: if the dataset is infinite or empty, an element has another form, a pixel is not a number in 0..255,
            all pixels of floating-point images are at most 1, or a label is negative, fractional, or neither a number
            nor one-hot.

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
        image = tf.cast(tf.round(tf.cast(example["image"], tf.float32)), tf.uint8)
        labels = {"label": example["label"]} if "label" in example else {}
        return {"image": image, "index": index, **labels}

    measured, has_labels = _measure(examples), "label" in examples.element_spec
    # Integer images in 0..1 are accepted as dark images.
    _check(measured, examples.element_spec["image"].dtype.is_integer, has_labels, name)
    if has_labels and measured.first_class > 0:
        warnings.warn(
            f"{name}: no example has a label below {measured.first_class}; labels count from 0 to the number of "
            "classes minus 1. Subtract 1 if they count from 1.",
            stacklevel=2,
        )
    has_one_order = _checksum(examples.take(COMPARED)) == measured.first_checksum
    if not has_one_order:
        warnings.warn(
            f"{name} gives other examples, or another order of them, in its second pass. Remove shuffle() and random "
            "changes of the images: the pipeline shuffles and augments. Repeated views, resumed trainings, methods "
            "that remember examples and recordings need one order.",
            stacklevel=2,
        )
    shape = examples.element_spec["image"].shape
    return Source(
        examples.enumerate().map(numbered, tf.data.AUTOTUNE, deterministic=True),
        name=name,
        size=measured.size,
        version=f"{measured.checksum % 2**64:016x}",
        classes=(classes or measured.last_class + 1) if has_labels else None,
        image_shape=None if None in shape else tuple(shape),
        content=f"{measured.content % 2**64:016x}",
        has_one_order=has_one_order,
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
    if isinstance(spec, dict) and not keyed:
        raise ValueError(
            f'{name} must give dictionaries with the keys "image" and, if there are labels, "label", but it gives the '
            f"keys {sorted(map(str, spec))}. Map it to (image, label) or to image."
        )
    parts = [spec["image"], spec.get("label")] if keyed else list(spec) if isinstance(spec, tuple) else [spec]
    image, label = parts[0], parts[1] if len(parts) == 2 else None
    rank = image.shape.rank if isinstance(image, tf.TensorSpec) else None
    if rank not in (3, 4) or len(parts) > 2 or image.shape[-1] is None or _lacks_channels(image.shape):
        raise ValueError(
            f"{name} must give images (H, W, C) or batches of them, with or without labels, but it gives {spec}. Map it"
            " to (image, label) or to image."
        )
    one_hot = _is_one_hot(label, rank, name)
    squeezed = label is not None and label.shape.rank == rank - 2 and not one_hot
    if not (image.dtype.is_integer or image.dtype.is_floating):
        raise ValueError(f"{name} must give images of numbers, but it gives {image.dtype.name}. Decode them first.")

    def split(*element: Any) -> dict:
        pair = [element[0]["image"], element[0].get("label")] if keyed else element
        if label is None:
            return {"image": pair[0]}
        value = tf.cast(pair[1][..., 0] if squeezed else pair[1], tf.float64)
        number = tf.argmax(value, -1) if one_hot else tf.cast(tf.round(value), tf.int64)
        expected = tf.one_hot(number, tf.shape(value)[-1], dtype=tf.float64) if one_hot else tf.round(value)
        error = tf.abs(value - expected)
        return {"image": pair[0], "label": number, "label_error": tf.reduce_max(error, -1) if one_hot else error}

    return split, rank == 4, label.shape[-1] if label is not None and one_hot else None


def _lacks_channels(shape: tf.TensorShape) -> bool:
    """Whether a shape of rank 3 is that of a batch of gray images `(B, H, W)`."""
    return shape.rank == 3 and shape[0] is None and shape[1] is not None and shape[2] > 4


def _is_one_hot(label: tf.TensorSpec | None, rank: int, name: str) -> bool:
    """Whether the labels for images of a rank are one-hot.

    Raises:
        ValueError: if they are neither numbers nor one-hot.
    """
    if label is None:
        return False
    is_tensor = isinstance(label, tf.TensorSpec) and label.shape.rank is not None
    is_number = is_tensor and (label.dtype.is_integer or label.dtype.is_floating or label.dtype.is_bool)
    if not is_number or not (label.shape.rank == rank - 3 or (label.shape.rank == rank - 2 and label.shape[-1])):
        shapes = "() or (K,)" if rank == 3 else "(B,) or (B, K)"
        raise ValueError(
            f"{name} must give labels {shapes}, whole numbers or one-hot, but it gives {label}. Map it to "
            "(image, label)."
        )
    return label.shape.rank == rank - 2 and label.shape[-1] > 1


class _Measured(NamedTuple):
    """What one pass over the examples finds: number, pixel range, label range, largest label error, a checksum of all
    examples in their order, one of the first `COMPARED`, and one of all in any order."""

    size: int
    lowest: float
    highest: float
    first_class: int
    last_class: int
    label_error: float
    checksum: int
    first_checksum: int
    content: int


def _check(measured: _Measured, is_integer: bool, has_labels: bool, name: str) -> None:
    if not measured.size:
        raise ValueError(f"{name} must have at least one example, but it has no examples. Check how it is filtered.")
    lowest, highest = measured.lowest, measured.highest
    # NaN is in no range.
    if not (lowest >= 0 and highest <= 255) or (0 < highest <= 1 and not is_integer):
        raise ValueError(
            f"{name} must have pixel values in 0..255, but received values in {lowest:g}..{highest:g}. Scale them to "
            "0..255, because every network contains its own normalization."
        )
    if not measured.label_error < 1e-3:
        raise ValueError(
            f"{name} must have labels that are whole numbers or one-hot, but one differs from that by "
            f"{measured.label_error:g}. Map labels to class numbers."
        )
    if has_labels and measured.first_class < 0:
        raise ValueError(
            f"{name} must have labels from 0, but received {measured.first_class}. Filter examples without a class "
            "out, or map the dataset to images."
        )


def _measure(examples: tf.data.Dataset) -> _Measured:
    """Measures the examples in one pass. A NaN among the pixels or labels makes their range NaN."""
    has_labels = "label" in examples.element_spec

    def add(state: tuple, example: dict) -> tuple:
        count, lowest, highest, first, last, error, checksum, first_checksum, total = state
        content = _content(example)
        pixels = tf.cast(example["image"], tf.float32)
        smallest, largest = tf.reduce_min(pixels), tf.reduce_max(pixels)
        spoiled = tf.where(tf.reduce_all(tf.math.is_finite(pixels)), 0.0, float("nan"))
        if has_labels:
            first, last = tf.minimum(first, example["label"]), tf.maximum(last, example["label"])
            worse = example["label_error"]
            error = tf.where(tf.math.is_nan(error) | (worse <= error), error, worse)  # a NaN is the worst and stays
        lowest, highest = tf.minimum(lowest, smallest), tf.maximum(highest, largest)
        first_checksum = tf.where(count < COMPARED, 31 * first_checksum + content, first_checksum)
        ranges = lowest + spoiled, highest + spoiled, first, last
        return count + 1, *ranges, error, 31 * checksum + content, first_checksum, total + content

    start = (
        tf.constant(0), tf.constant(float("inf")), tf.constant(float("-inf")), tf.constant(2**62, tf.int64),
        tf.constant(-(2**62), tf.int64), tf.constant(0.0, tf.float64),
        tf.constant(0, tf.int64), tf.constant(0, tf.int64), tf.constant(0, tf.int64),
    )  # fmt: skip
    return _Measured(*(value.numpy().item() for value in examples.reduce(start, add)))


def _checksum(examples: tf.data.Dataset) -> int:
    """A checksum of the images and labels in their order."""
    start = tf.constant(0, tf.int64)
    return examples.reduce(start, lambda checksum, example: 31 * checksum + _content(example)).numpy().item()


def _content(example: dict) -> tf.Tensor:
    """A number that differs for another image or label."""
    content = tf.strings.to_hash_bucket_fast(tf.io.serialize_tensor(example["image"]), 2**62)
    return content + example["label"] if "label" in example else content
