"""From a source to batches for Keras, with one view of each image that teacher and student share.

The order of operations is: decode, resize, store as uint8, shuffle, augment, convert to float32 (0..255), mix the
batch. The position of an example and the pixels of its view depend only on (seed, epoch, index). A run can therefore
start at any epoch, and a recording of a teacher can be joined to it.

With `views=V`, epoch e shows view e mod V of every example, in a new order. The pixels of a mixed image also depend on
its batch. If batches are mixed, the order therefore depends only on (seed, view), and epoch e has the same batches as
epoch e mod V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kd_keras.data.base import ImageAugmentation, RecordedOutputs, Source
from kd_keras.data.batches import WHOLE_BATCH, BatchMaker, cut_slices, pad_batch, unpack_single
from kd_keras.data.descriptions import describe_views
from kd_keras.data.examples import Examples, fits_in_memory, store
from kd_keras.data.settings import BatchSettings, EpochRange, ViewSettings, check_whole
from kd_keras.data.shards import open_examples
from kd_keras.distribute.slices import BatchSlice


def steps_per_epoch(source: Source, batch_size: int, drop_remainder: bool = False) -> int:
    """The number of batches in an epoch of `training` or `evaluation`.

    Raises:
        ValueError: if the batch size is below 1, or larger than the source although the remainder is dropped.

    >>> examples = tf.data.Dataset.range(5).map(lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "index": i})
    >>> steps_per_epoch(Source(examples, name="black", size=5, image_shape=(4, 4, 1)), batch_size=2)
    3
    """
    return BatchSettings(batch_size, drop_remainder).count_steps(source)


def training(
    source: Source,
    *,
    batch_size: int,
    image_size: tuple[int, int] | None = None,
    augmentation: ImageAugmentation | None = None,
    seed: int = 0,
    start_epoch: int = 0,
    start_step: int = 0,
    epochs: int | None = None,
    shuffle: bool = True,
    cache: bool = True,
    one_hot: bool = False,
    with_index: bool = False,
    drop_remainder: bool = False,
    images_per_identity: int | None = None,
    views: int | None = None,
    recorded: RecordedOutputs | None = None,
    batch_slice: BatchSlice = WHOLE_BATCH,
    sharding: str = "auto",
) -> tf.data.Dataset:
    """Makes training batches, one epoch after the other; give Keras `steps_per_epoch` if `epochs` is `None`.

    Order and views depend only on (seed, epoch, index), not on the global seed. A dataset that starts at epoch 3, step
    5 therefore continues with the batches of one that starts at 0, and the slices of several workers are parts of the
    batches of a single worker. No batch spans two epochs.

    This call reads up to 1 GB of decoded images into memory; each epoch is then a full permutation. A larger dataset,
    or one with `cache=False`, is read again in each epoch and shuffled in a buffer of 256 MB. If it consists of several
    files, it is read in up to 16 shards: consecutive parts, shuffled separately, that contribute equally to every
    batch. A worker may then read only its own shards; the batches do not depend on the number of workers.

    Args:
        source: where the examples come from.
        batch_size: B, at least 1. The last batch of an epoch is smaller, unless `drop_remainder`.
        image_size: `(H, W)` to resize to (bilinear, antialiased) before augmentation. Required if sizes differ.
        augmentation: an `Augmentation`, any object with the same methods (`base.ImageAugmentation`), or `None`.
        seed: the seed of order and views, at least 0.
        start_epoch: the number of the first epoch, from 0.
        start_step: the number of batches of that epoch to skip.
        epochs: the number of epochs, or `None` for an endless dataset.
        shuffle: whether each epoch has a new order, or the reading order.
        cache: whether decoded images may be kept in memory.
        one_hot: whether labels are `(B, K)` float32; always so if the augmentation mixes labels that are classes.
        with_index: whether x is `{INPUTS: images, INDEX: (B,) int64}`, to join other data by example.
        drop_remainder: whether to leave out the smaller last batch of an epoch; shapes are then static.
        images_per_identity: the number of images, at least 2, of each class in a batch, for losses that compare images
            of one class, such as EKD of faces; by default they come in any order. Every example still occurs once in
            each epoch, so that a group may have up to twice as many images, less one, and a batch may cut a group.
            It requires shuffled, unmixed images in memory with one class each, and a batch size of at least twice this
            number.
        views: the number of views of each example, or `None` for a new view in each epoch.
        recorded: a teacher's outputs on disk, such as `Teacher.recorded(DIRECTORY).recording`. They travel in x under
            RECORDED, joined by index, and imply `with_index` and the recording's number of views.
        batch_slice: the slices of each batch for one of several workers, one after the other; `distribute.batches`
            provides it.
        sharding: what each of several workers reads: "data", all examples, of which it uses its own slices; "file",
            only its own shards; "auto", by file if possible. Reading by file is impossible if images are kept in
            memory, batches are mixed, or the order is the reading order. The batches are the same.

    Returns:
        A dataset of `(x, y)`, or of `x` if the source has no labels: x `(B, H, W, C)` float32, pixel values from 0 to
        255 (or the dictionary above), y `(B,)` int64 or `(B, K)` float32. If labels are boxes, y is a dictionary of
        `boxes` `(B, N, 4)` float32 and `classes` `(B, N)` int64, which follow the view; masks `(B, H, W)` int32 too.

    Raises:
        ValueError: if a number is out of range, images differ in size and there is no `image_size`, `one_hot` lacks
            labels, the last batch has fewer examples than there are replicas, the recording has other views (the
            message says what differs), or sharding by file is required but not possible.
        tf.errors.InvalidArgumentError: if a label is outside 0..K-1, when it is read, with the example's index.

    >>> examples = tf.data.Dataset.range(5).map(lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "index": i})
    >>> black = Source(examples, name="black", size=5, image_shape=(4, 4, 1))
    >>> [batch.shape[0] for batch in training(black, batch_size=2, epochs=1)]
    [2, 2, 1]
    """
    view_settings = ViewSettings(image_size, augmentation, seed)
    batching = BatchSettings(batch_size, drop_remainder, shuffle, cache, images_per_identity)
    span = EpochRange(start_epoch, start_step, epochs)
    steps = batching.count_steps(source)
    _check_steps(source, batching, span, batch_slice)
    if recorded is not None:
        recorded.check("images", describe_views(source, view_settings, batching))
        views = recorded.views
    check_whole(1, views=1 if views is None else views)
    maker = BatchMaker(source, view_settings, one_hot, with_index, recorded)
    examples = open_examples(source, view_settings, batching, batch_slice, sharding)
    numbers = tf.data.Dataset.counter(span.epoch)
    numbers = numbers if span.count is None else numbers.take(span.count)
    batches = numbers.flat_map(_make_epoch(examples, maker, span, views, batch_slice))
    length = tf.data.INFINITE_CARDINALITY
    if span.count is not None:
        length = (span.count * steps - span.step) * batch_slice.count
    return _prefetch(batches.apply(tf.data.experimental.assert_cardinality(length)))


def evaluation(
    source: Source,
    *,
    batch_size: int,
    image_size: tuple[int, int] | None = None,
    one_hot: bool = False,
    with_index: bool = False,
    batch_slice: BatchSlice = WHOLE_BATCH,
) -> tf.data.Dataset:
    """Makes batches of every example once, in reading order and without augmentation.

    Arguments, result and errors are those of `training`. Up to 1 GB of decoded images is kept after the first pass.
    With labels and several replicas, batches are `(x, y, weight)`: the last one is padded to B rows with copies of
    weight 0, so that all replicas have equal slices. With `weighted_metrics` in `compile` the copies do not count.

    >>> examples = tf.data.Dataset.range(5)
    >>> examples = examples.map(lambda i: {"image": tf.fill((4, 4, 1), tf.cast(i, tf.uint8)), "index": i})
    >>> (images,) = evaluation(Source(examples, name="dark", size=5, image_shape=(4, 4, 1)), batch_size=8)
    >>> images.dtype, images[:, 0, 0, 0].numpy().tolist()
    (tf.float32, [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    view_settings, steps = ViewSettings(image_size), steps_per_epoch(source, batch_size)
    maker = BatchMaker(source, view_settings, one_hot, with_index)
    stored = store(source, image_size)
    if fits_in_memory(source, stored):
        stored = stored.cache()
    batches = stored.batch(batch_size).map(maker, tf.data.AUTOTUNE, deterministic=True)
    if batch_slice.total > 1:
        padded = batches.map(lambda x, y: pad_batch(x, y, batch_size)) if source.has_labels else batches
        batches = padded.flat_map(lambda *batch: cut_slices(unpack_single(batch), batch_slice))
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps * batch_slice.count))
    return _prefetch(batches)


def _check_steps(source: Source, batching: BatchSettings, span: EpochRange, batch_slice: BatchSlice) -> None:
    steps = batching.count_steps(source)
    if span.step >= steps:
        raise ValueError(f"start_step must be below {steps}, the steps of an epoch, but received {span.step}.")
    smallest = batching.batch_size if batching.drop_remainder else source.size - batching.batch_size * (steps - 1)
    if smallest < batch_slice.total:
        raise ValueError(
            f"Each of {batch_slice.total} replicas needs at least one example of every batch, but the smallest batch "
            f"of {source.name} has {smallest}. Choose another batch_size, or pass drop_remainder=True."
        )


def _make_epoch(
    examples: Examples, maker: BatchMaker, span: EpochRange, views: int | None, batch_slice: BatchSlice
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Returns a function from an epoch's number () int64 to its batches."""
    mixes = maker.views.mixes_batches
    # A mixed batch must be made as a whole. Otherwise a worker makes only the rows of its slices.
    is_sliced = batch_slice.total > 1
    cuts_before, cuts_after = is_sliced and not mixes, is_sliced and mixes

    def make_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        seed = tf.constant([maker.views.seed, 0], tf.int64)
        view = epoch if views is None else epoch % views
        view_seed = tf.random.fold_in(seed, view)
        order_seed = view_seed if mixes else tf.random.fold_in(seed, epoch)
        skipped = tf.where(epoch == span.epoch, tf.constant(span.step, tf.int64), 0)
        batches = examples.batches(order_seed).enumerate().skip(skipped)
        if cuts_before:
            batches = batches.flat_map(lambda number, batch: cut_slices((number, batch), examples.remaining_slice))

        def make_batch(number: tf.Tensor, batch: Any) -> Any:
            return maker(examples.rows(batch), view_seed, number, view)

        batches = batches.map(make_batch, tf.data.AUTOTUNE, deterministic=True)
        if cuts_after:
            batches = batches.flat_map(lambda *batch: cut_slices(unpack_single(batch), batch_slice))
        return batches

    return make_epoch


def _prefetch(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # Several workers share the examples, not the files: arrays in memory and small datasets have one file.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
