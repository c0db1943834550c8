"""Ways to read the examples of an epoch: from decoded images in memory, or from files that every epoch reads again.

`InMemory`, `Streamed` and `shards.Sharded` have the same two methods: `batches` returns the batches of one epoch in
their order, and `rows` the examples of one of them. They are separate so that a worker can drop a batch, or rows of it,
before any image is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from kd_keras.data.base import Source
from kd_keras.data.identity_order import IdentityOrder
from kd_keras.data.labels import check_label, mask_in_window, whole_image
from kd_keras.data.python_calls import plain_message
from kd_keras.data.settings import BatchSettings
from kd_keras.distribute.slices import BatchSlice
from kd_keras.errors import explain_mismatch

MEMORY_LIMIT = 2**30  # bytes of decoded images in memory; a larger dataset is read again in each epoch
BUFFER_SIZE = 2**28  # bytes of images in the shuffle buffer of a larger dataset


class Examples(Protocol):
    """A way to read the stored examples.

    Attributes:
        remaining_slice: the slices that this worker must still cut out of the batches.
    """

    remaining_slice: BatchSlice

    def batches(self, seed: tf.Tensor) -> tf.data.Dataset:
        """The batches of one epoch, in an order that depends on a seed `(2,)` and in a form that `rows` accepts."""

    def rows(self, batch: Any) -> dict[str, tf.Tensor]:
        """The stored examples of a batch: `image` `(B, H, W, C)` uint8, `index` `(B,)` int64, perhaps `label`."""


class InMemory:
    """Keeps all decoded images; a batch is a list of example numbers, and each epoch is a full permutation.

    With `images_per_identity` it is one in which images of an identity follow each other, see `identity_order.py`.
    """

    def __init__(self, source: Source, stored: tf.data.Dataset, batching: BatchSettings, batch_slice: BatchSlice):
        try:
            self.columns = stored.batch(source.size, num_parallel_calls=tf.data.AUTOTUNE).get_single_element()
        except tf.errors.InvalidArgumentError as error:  # a damaged image or a label out of range
            raise tf.errors.InvalidArgumentError(None, None, plain_message(error)) from error
        self.size, self.batching, self.remaining_slice = source.size, batching, batch_slice
        images = batching.images_per_identity
        self.identity_order = (
            None if images is None else IdentityOrder(self.columns["label"].numpy(), images, source.name)
        )

    def batches(self, seed: tf.Tensor) -> tf.data.Dataset:
        order = tf.range(self.size)
        if self.identity_order is not None:
            order = self.identity_order(seed)
        elif self.batching.shuffle:
            order = tf.random.experimental.stateless_shuffle(order, seed)
        numbers = tf.data.Dataset.from_tensor_slices(order)
        return numbers.batch(self.batching.batch_size, self.batching.drop_remainder)

    def rows(self, batch: Any) -> dict[str, tf.Tensor]:
        return tf.nest.map_structure(lambda column: tf.gather(column, batch), self.columns)


class Streamed:
    """Reads all examples again in each epoch and shuffles them in a buffer."""

    def __init__(self, source: Source, stored: tf.data.Dataset, batching: BatchSettings, batch_slice: BatchSlice):
        self.stored, self.batching, self.remaining_slice = stored, batching, batch_slice
        self.buffer = count_buffered(source, stored)

    def batches(self, seed: tf.Tensor) -> tf.data.Dataset:
        rows = shuffle(self.stored, self.buffer, seed) if self.batching.shuffle else self.stored
        return rows.batch(self.batching.batch_size, self.batching.drop_remainder)

    def rows(self, batch: Any) -> dict[str, tf.Tensor]:
        return batch


def resize_pixels(image: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """An image `(H, W, C)` uint8 in another size, bilinear with antialiasing, rounded.

    >>> resize_pixels(tf.zeros((4, 6, 3), tf.uint8), (2, 3)).shape
    TensorShape([2, 3, 3])
    """
    return tf.cast(tf.round(tf.image.resize(image, size, antialias=True)), tf.uint8)


def store(source: Source, image_size: Sequence[int] | None) -> tf.data.Dataset:
    """The examples in the form in which they are stored: uint8 images of one size, and labels that were checked.

    Raises:
        ValueError: if the images differ in size and no `image_size` is given.
    """
    original_size = None if source.image_shape is None else source.image_shape[:2]
    size = original_size if image_size is None else tuple(image_size)
    if size is None:
        received = f"{source.name}, whose images differ in size"
        raise ValueError(explain_mismatch("images of one size", received, "pass image_size=(height, width)"))
    channels = source.examples.element_spec["image"].shape[-1]
    resizes = size != original_size

    def convert(example: dict) -> dict:
        image = example["image"]
        if resizes:
            image = resize_pixels(image, size)
        converted = {**example, "image": tf.ensure_shape(image, (*size, channels))}
        if source.has_masks:
            label = example["label"]
            converted["label"] = mask_in_window(label, whole_image(), size) if resizes else tf.ensure_shape(label, size)
        if source.has_labels and source.classes is not None:
            converted["label"] = check_label(converted["label"], example["index"], source.name, source.classes)
        return converted

    return source.examples.map(convert, tf.data.AUTOTUNE, deterministic=True)


def fits_in_memory(source: Source, stored: tf.data.Dataset) -> bool:
    """Whether the decoded images, with masks, take at most `MEMORY_LIMIT`."""
    return _count_bytes(source, stored) <= MEMORY_LIMIT


def count_buffered(source: Source, stored: tf.data.Dataset) -> int:
    """The number of examples in the shuffle buffer of a dataset that is not kept in memory."""
    return max(1, min(source.size, source.size * BUFFER_SIZE // _count_bytes(source, stored)))


def _count_bytes(source: Source, stored: tf.data.Dataset) -> int:
    count = stored.element_spec["image"].shape.num_elements()
    if source.has_masks:
        mask = stored.element_spec["label"]
        count += mask.shape.num_elements() * mask.dtype.size
    return source.size * count


def shuffle(stored: tf.data.Dataset, buffer: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Shuffles in a buffer, in an order that depends only on a seed `(2,)`; call it within a function of tf.data."""
    # `Dataset.shuffle` combines its seed with that of the graph, by default the user's global seed. The current graph
    # is that of one epoch's function, so this setting has no other effect. (With 0, TensorFlow would compare the other
    # seed in Python, and fail.)
    tf.compat.v1.set_random_seed(1)
    number = tf.random.stateless_uniform((), seed, maxval=2**31 - 1, dtype=tf.int64)
    return stored.shuffle(buffer, seed=number, reshuffle_each_iteration=False)
