"""From a source to batches: the view that teacher and student share is made here, once.

The order: decode -> resize -> keep as uint8 -> shuffle -> augment -> scale to 0..1 -> normalise -> mix the batch. Which
example comes when, and what its view looks like, follows from (seed, epoch, index) alone, so a run can start at any
epoch and a recording can be replayed.

With `views=V` epoch e shows view e mod V of every example, and only its order is the epoch's own. A mixed image depends
on the batch that it is in; where batches are mixed, the order therefore follows from (seed, view) too, so that epoch e
has the batches of epoch e mod V, partners included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kd_keras.contracts import INDEX, INPUTS, RECORDED
from kd_keras.data.base import Recorded, Source, Views
from kd_keras.distribute.slices import BatchSlice
from kd_keras.errors import explain_mismatch, suggest

MEMORY = 2**30  # bytes of decoded images that are kept; a larger dataset is read anew in each epoch
BUFFER = 2**28  # bytes of images among which a larger dataset is shuffled
LANES = 16  # parts at most in which a larger dataset of several files is read
SHARDING = ("auto", "data", "file")


class Normalisation(NamedTuple):
    """Per-channel `mean` and `std` of images in 0..1; one number serves all channels. The default changes nothing.

    >>> Normalisation((0.5,), (0.25,))(tf.constant([[[1.0]]])).numpy().item()
    2.0
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, images: Any) -> tf.Tensor:
        """From images `(..., C)` in 0..1 to normalised float32."""
        return (tf.cast(images, tf.float32) - tf.constant(self.mean)) / tf.constant(self.std)


def measure(source: Source, limit: int = 10000) -> Normalisation:
    """Measures mean and standard deviation over all pixels of the first `limit` examples.

    A channel that never changes gets the deviation 1, so that it can be divided by.

    Raises:
        ValueError: for a limit below 1.
    """
    _at_least(1, limit=limit)

    channels = source.examples.element_spec["image"].shape[-1]

    def add(total: tf.Tensor, example: dict) -> tf.Tensor:
        pixels = tf.cast(tf.reshape(example["image"], (-1, channels)), tf.float64) / 255
        return total + tf.reduce_sum(tf.stack([tf.ones_like(pixels), pixels, pixels**2]), 1)

    total = source.examples.take(limit).reduce(tf.zeros((3, channels), tf.float64), add).numpy()
    mean = total[1] / total[0]
    std = np.sqrt(np.maximum(total[2] / total[0] - mean**2, 0))
    return Normalisation(tuple(mean.tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist()))


def steps_per_epoch(source: Source, batch_size: int, drop_remainder: bool = False) -> int:
    """How many batches an epoch of `training` or `evaluation` has.

    Raises:
        ValueError: for a batch size below 1, or one above the source's size where the remainder is dropped.
    """
    _at_least(1, batch_size=batch_size)
    if drop_remainder and batch_size > source.size:
        came = f"{batch_size}, and drop_remainder leaves no batch"
        raise ValueError(explain_mismatch(f"a batch size of at most {source.size}, the examples of {source.name}", came))
    return source.size // batch_size if drop_remainder else math.ceil(source.size / batch_size)


def described(
    source: Source,
    *,
    batch_size: int,
    image_size: Sequence[int] | None = None,
    augmentation: Views | None = None,
    normalisation: Normalisation = Normalisation(),
    seed: int = 0,
    drop_remainder: bool = False,
    shuffle: bool = True,
    cache: bool = True,
) -> dict[str, Any]:
    """What the views that `training` makes follow from, as plain values, to compare two of them.

    Raises:
        ValueError: for an augmentation whose `repr` does not say what it does.

    >>> from kd_keras.data.base import Source
    >>> examples = tf.data.Dataset.range(2).map(lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "index": i})
    >>> described(Source(examples, name="black", size=2, image_shape=(4, 4, 1)), batch_size=2)["dataset"]
    'black'
    """
    if " at 0x" in repr(augmentation):
        remedy = "make it a dataclass, or give it a __repr__ with all its settings"
        raise ValueError(explain_mismatch("an augmentation whose repr() says what it does", repr(augmentation), remedy))
    changes = augmentation is not None and (augmentation.changes_images or augmentation.mixes)
    found = {
        "dataset": source.version or source.name,
        "examples": source.size,
        "image_size": list(image_size or (source.image_shape or ())[:2]),
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
        "augmentation": repr(augmentation) if changes else "none",
        "seed": seed if changes else "any",
    }
    if changes and augmentation.mixes:  # then a view depends on its batch
        kept = cache and _bytes(source, _stored(source, image_size)) <= MEMORY
        order = "shuffled in memory" if kept else "shuffled in a buffer"
        found |= {"batch_size": batch_size, "drop_remainder": drop_remainder, "order": order if shuffle else "as read"}
    return found


def training(
    source: Source,
    *,
    batch_size: int,
    image_size: tuple[int, int] | None = None,
    augmentation: Views | None = None,
    normalisation: Normalisation = Normalisation(),
    seed: int = 0,
    start_epoch: int = 0,
    start_step: int = 0,
    epochs: int | None = None,
    shuffle: bool = True,
    cache: bool = True,
    one_hot: bool = False,
    with_index: bool = False,
    drop_remainder: bool = False,
    views: int | None = None,
    recorded: Recorded | None = None,
    share: BatchSlice = BatchSlice(),
    sharding: str = "auto",
) -> tf.data.Dataset:
    """Makes training batches, one epoch after the other; give Keras `steps_per_epoch` where `epochs` is `None`.

    Order and views follow from (seed, epoch, index): starting at epoch 3, step 5 gives what a run from 0 gives from
    there on, whatever the global seed, and the shares of several workers are parts of what one would make. No batch
    spans two epochs. Up to 1 GB of decoded images is read here, at once, and kept, and each epoch is a full
    permutation; more, or `cache=False`, is read anew in each epoch and shuffled in a buffer of 256 MB. Where that lies
    in several files, it is read in up to 16 lanes, consecutive parts that are shuffled by themselves and have equal
    parts of every batch, so that a worker may read its own lanes alone; the batches are the same however many workers.

    Args:
        source: where examples come from.
        batch_size: B, at least 1; the last batch of an epoch is smaller, unless `drop_remainder`.
        image_size: (H, W) to resize to (bilinear, antialiased) before augmentation; needed where sizes vary.
        augmentation: an `Augmentation`, any object that does the same (`base.Views`), or `None` for none.
        normalisation: applied to images in 0..1.
        seed: from 0, for order and views.
        start_epoch: the first epoch's number, from 0.
        start_step: how many batches of that epoch to leave out.
        epochs: how many epochs to give, or `None` for no end.
        shuffle: whether each epoch has an order of its own, or the reading order.
        cache: whether decoded images may be kept in memory.
        one_hot: labels `(B, K)` float32; always so where the augmentation mixes.
        with_index: images as `{INPUTS: images, INDEX: (B,) int64}`, to join a recorded teacher's outputs.
        drop_remainder: whether to leave out an epoch's smaller last batch; shapes are then static.
        views: how many views there are of every example, or `None` for a new one in each epoch.
        recorded: a teacher's outputs on disk, such as `Teacher.recorded(DIR).recording`, which then ride in x under
            RECORDED, joined by index, with `with_index` and its number of views.
        share: the parts of each batch to give, one after the other, for one of several workers
            (`distribute.batches` fills it in).
        sharding: what each of several workers reads: by "data" every example, of which it makes its own parts, or by
            "file" its own lanes alone; "auto" is by file wherever there are lanes for each worker, and not where images
            are kept in memory, batches are mixed, or their order is the reading order. The batches are the same.

    Returns:
        A dataset of `(x, y)`, or of `x` where the source has no labels: x `(B, H, W, C)` float32 (or the dictionary
        above), y `(B,)` int64 or `(B, K)` float32.

    Raises:
        ValueError: for a number out of range, images of varying size without `image_size`, a normalisation of
            another number of channels, `one_hot` without labels, a last batch of fewer examples than replicas, a
            recording of other views, with what differs, or sharding by file where it cannot be done.
        tf.errors.InvalidArgumentError: for a label outside 0..K-1, when it is read, with the example's index.
    """
    steps = steps_per_epoch(source, batch_size, drop_remainder)
    _at_least(0, seed=seed, start_epoch=start_epoch, start_step=start_step)
    _at_least(1, epochs=1 if epochs is None else epochs)
    if start_step >= steps:
        raise ValueError(explain_mismatch(f"a start_step below the {steps} of an epoch", str(start_step)))
    smallest = batch_size if drop_remainder else source.size - batch_size * (steps - 1)
    if smallest < share.total:
        remedy = "another batch size, or drop_remainder"
        raise ValueError(explain_mismatch(f"an example for each of {share.total} replicas", f"batches of {smallest}", remedy))
    finish = _Finish(source, normalisation, one_hot, with_index, augmentation, recorded)
    stored = _stored(source, image_size)
    memory = None
    if recorded is not None:
        given = {"image_size": image_size, "augmentation": augmentation, "normalisation": normalisation, "seed": seed}
        batches = {"batch_size": batch_size, "drop_remainder": drop_remainder, "shuffle": shuffle, "cache": cache}
        recorded.check("images", described(source, **given, **batches))
        views = recorded.views
    _at_least(1, views=1 if views is None else views)
    if cache and _bytes(source, stored) <= MEMORY:
        memory = stored.batch(source.size, num_parallel_calls=tf.data.AUTOTUNE).get_single_element()
    count = _lane_count(source, batch_size) if memory is None and shuffle and not finish.mixes else 1
    lanes = _Lanes(source, count, image_size, batch_size, drop_remainder) if count > 1 else None
    by_file = _by_file(sharding, count, share)
    within = BatchSlice(0, share.count, share.count) if by_file else share

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        begun = tf.where(epoch == start_epoch, tf.constant(start_step, tf.int64), 0)
        view = epoch if views is None else epoch % views
        view_seed = tf.random.fold_in(tf.constant([seed, 0], tf.int64), view)
        order_seed = view_seed if finish.mixes else tf.random.fold_in(tf.constant([seed, 0], tf.int64), epoch)
        if lanes:
            chosen = lanes.batches(order_seed, share if by_file else BatchSlice())
        elif memory is None:
            rows = _shuffled(stored, _buffer(source, stored), order_seed) if shuffle else stored
            chosen = rows.batch(batch_size, drop_remainder)
        else:
            order = tf.range(source.size)
            order = tf.random.experimental.stateless_shuffle(order, order_seed) if shuffle else order
            chosen = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder)
        chosen = chosen.enumerate().skip(begun)
        # A mixed batch must be made as a whole; otherwise a worker makes its own rows alone.
        early, late = (share.total > 1 and finish.mixes == mixes for mixes in (False, True))
        chosen = chosen.flat_map(lambda number, rows: _parts((number, rows), within)) if early else chosen

        def make(number: tf.Tensor, rows: Any) -> Any:
            batch = rows if memory is None else {key: tf.gather(value, rows) for key, value in memory.items()}
            return finish(batch, view_seed, number, view)

        made = chosen.map(make, tf.data.AUTOTUNE, deterministic=True)
        return made.flat_map(lambda *batch: _parts(_unpacked(batch), share)) if late else made

    numbers = tf.data.Dataset.counter(start_epoch)
    batches = (numbers if epochs is None else numbers.take(epochs)).flat_map(one_epoch)
    length = tf.data.INFINITE_CARDINALITY if epochs is None else (epochs * steps - start_step) * share.count
    return _ready(batches.apply(tf.data.experimental.assert_cardinality(length)))


def evaluation(
    source: Source,
    *,
    batch_size: int,
    image_size: tuple[int, int] | None = None,
    normalisation: Normalisation = Normalisation(),
    one_hot: bool = False,
    with_index: bool = False,
    share: BatchSlice = BatchSlice(),
) -> tf.data.Dataset:
    """Makes batches of every example once, in reading order and without augmentation; a finite dataset.

    Arguments, result and errors are those of `training`. Up to 1 GB of decoded images is kept after the first pass.
    With labels and several replicas it gives `(x, y, weight)`: the last batch is filled up to B with copies that
    weigh 0, so that every replica has an equal part; compile with `weighted_metrics`, and they do not count.
    """
    _at_least(1, batch_size=batch_size)
    finish = _Finish(source, normalisation, one_hot, with_index)
    stored = _stored(source, image_size)
    if _bytes(source, stored) <= MEMORY:
        stored = stored.cache()
    batches = stored.batch(batch_size).map(finish, tf.data.AUTOTUNE, deterministic=True)
    if share.total > 1:
        filled = batches.map(lambda x, y: _filled(x, y, batch_size)) if source.labelled else batches
        batches = filled.flat_map(lambda *batch: _parts(_unpacked(batch), share))
        steps = steps_per_epoch(source, batch_size)
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps * share.count))
    return _ready(batches)


def _parts(batch: Any, share: BatchSlice) -> tf.data.Dataset:
    """The parts of one global batch that a share names; what has no rows, a number, goes with each."""
    rows = [x for x in tf.nest.flatten(batch) if x.shape.rank]
    size, static = tf.shape(rows[0], tf.int64)[0], rows[0].shape[0]

    def part(number: tf.Tensor) -> Any:
        def cut(x: tf.Tensor) -> tf.Tensor:
            if not x.shape.rank:
                return x
            own = x[number * size // share.total : (number + 1) * size // share.total]
            length = static // share.total if static and static % share.total == 0 else None
            return tf.ensure_shape(own, (length, *x.shape[1:]))

        return tf.nest.map_structure(cut, batch)

    return tf.data.Dataset.range(share.first, share.first + share.count).map(part)


def _filled(x: Any, y: tf.Tensor, size: int) -> tuple:
    """A batch of `size` rows, the last one repeated where there are fewer, and weights that are 0 for those."""
    count = tf.shape(y)[0]
    rows = tf.minimum(tf.range(size), count - 1)
    x, y = tf.nest.map_structure(lambda each: tf.gather(each, rows), (x, y))
    return x, y, tf.cast(tf.range(size) < count, tf.float32)


def _unpacked(batch: tuple) -> Any:
    return batch[0] if len(batch) == 1 else batch


class _Finish:
    """From a batch of stored examples to what Keras reads: views, scale, normalisation, labels, mixing."""

    def __init__(
        self,
        source: Source,
        normalisation: Normalisation,
        one_hot: bool,
        with_index: bool,
        augmentation: Views | None = None,
        recorded: Recorded | None = None,
    ):
        self.mixes = augmentation is not None and augmentation.mixes
        self.one_hot = one_hot or (self.mixes and source.labelled)
        self.normalisation, self.augmentation, self.recorded = normalisation, augmentation, recorded
        self.with_index = with_index or recorded is not None
        self.classes = source.classes
        if self.one_hot and not (source.labelled and self.classes):
            came = f"{source.name}, classes {self.classes}, labelled {source.labelled}"
            raise ValueError(explain_mismatch("labels and a number of classes, for one-hot labels", came))
        channels = source.examples.element_spec["image"].shape[-1]
        for field, values in normalisation._asdict().items():
            if len(values) not in (1, channels) or (field == "std" and min(values) <= 0):
                needed = f"a normalisation with 1 or {channels} numbers each, every std above 0"
                raise ValueError(explain_mismatch(needed, f"{field} {values}", "measure(source) gives one that fits"))

    def __call__(
        self,
        batch: dict,
        view_seed: tf.Tensor | None = None,
        number: tf.Tensor | None = None,
        view: tf.Tensor | None = None,
    ) -> Any:
        images, label = batch["image"], batch.get("label")
        if self.augmentation is not None and self.augmentation.changes_images:
            # One image after the other: batches already run side by side, and a view need know nothing of batches.
            images = tf.map_fn(
                lambda one: self.augmentation.view(one[0], tf.random.fold_in(view_seed, one[1])),
                (images, batch["index"]),
                fn_output_signature=tf.TensorSpec(images.shape[1:], images.dtype),
            )
        images = self.normalisation(tf.cast(images, tf.float32) / 255)
        if self.one_hot:
            label = tf.one_hot(label, self.classes)
        if self.mixes:
            # Examples count from 0 upwards, batches from -1 downwards: no seed serves twice.
            images, label = self.augmentation.mix(images, label, tf.random.fold_in(view_seed, -1 - number))
        x = {INPUTS: images, INDEX: batch["index"]} if self.with_index else images
        if self.recorded is not None:
            x[RECORDED] = self.recorded(view, batch["index"])
        return x if label is None else (x, label)


def _stored(source: Source, image_size: Sequence[int] | None) -> tf.data.Dataset:
    """The examples as they are kept: uint8 of one size, with labels that are sure to be classes."""
    if image_size is None and source.image_shape is None:
        came = f"{source.name}, whose images differ in size"
        raise ValueError(explain_mismatch("images of one size", came, "give image_size=(height, width)"))
    if image_size is not None and not (
        isinstance(image_size, (tuple, list)) and len(image_size) == 2 and all(isinstance(n, int) for n in image_size)
        and min(image_size) > 0
    ):
        raise ValueError(explain_mismatch("image_size (height, width), both at least 1", repr(image_size)))
    channels = source.examples.element_spec["image"].shape[-1]
    size = tuple(image_size or source.image_shape[:2])

    def example(one: dict) -> dict:
        image = one["image"]
        if source.image_shape is None or size != source.image_shape[:2]:
            image = tf.cast(tf.round(tf.image.resize(image, size, antialias=True)), tf.uint8)
        result = {**one, "image": tf.ensure_shape(image, (*size, channels))}
        if source.labelled and source.classes is not None:
            result["label"] = _checked(one["label"], one["index"], source)
        return result

    return source.examples.map(example, tf.data.AUTOTUNE, deterministic=True)


def _checked(label: tf.Tensor, index: tf.Tensor, source: Source) -> tf.Tensor:
    needed = f"a label of 0 to {source.classes - 1}, the classes of {source.name}"
    message = tf.strings.format(explain_mismatch(needed, "{} at example {}"), (label, index))
    with tf.control_dependencies([tf.debugging.Assert((label >= 0) & (label < source.classes), [message])]):
        return tf.identity(label)


class _Lanes:
    """A source that is read in consecutive parts at the same time, each of which gives an equal part of every batch."""

    def __init__(
        self, source: Source, count: int, image_size: Sequence[int] | None, batch_size: int, drop_remainder: bool
    ):
        self.sources = source.lanes(count)
        self.stored = [_stored(lane, image_size) for lane in self.sources]
        self.buffer = max(1, _buffer(source, self.stored[0]) // count)
        self.rows, self.drop_remainder = batch_size // count, drop_remainder
        self.steps = steps_per_epoch(source, batch_size, drop_remainder)

    def batches(self, seed: tf.Tensor, share: BatchSlice) -> tf.data.Dataset:
        """The rows of every batch that come from the lanes of one worker: it has every so manieth of them."""
        own = range(share.first // share.count, len(self.sources), share.total // share.count)
        lanes = tuple(self._lane(number, tf.random.fold_in(seed, number)) for number in own)
        return tf.data.Dataset.zip(lanes).map(
            lambda *parts: tf.nest.map_structure(lambda *rows: tf.concat(rows, 0), *parts)
        )

    def _lane(self, number: int, seed: tf.Tensor) -> tf.data.Dataset:
        # A lane may be through one batch before the others: it then gives no row of the last one.
        rows = _shuffled(self.stored[number], self.buffer, seed).batch(self.rows, self.drop_remainder)
        spec = self.stored[number].element_spec
        none = tf.nest.map_structure(lambda each: tf.zeros((0, *each.shape), each.dtype), spec)
        missing = self.steps - math.ceil(self.sources[number].size / self.rows)
        return rows.concatenate(tf.data.Dataset.from_tensors(none)) if missing > 0 else rows.take(self.steps)


def _lane_count(source: Source, batch_size: int) -> int:
    """It follows from the source and the batch size alone, so that batches are the same however many workers."""
    most = min(LANES, source.files if source.between is not None else 1)
    return max(number for number in range(1, most + 1) if batch_size % number == 0)


def _by_file(sharding: str, lanes: int, share: BatchSlice) -> bool:
    """Whether each of several workers reads lanes of its own."""
    if sharding not in SHARDING:
        raise ValueError(explain_mismatch(f"sharding= one of {SHARDING}", repr(sharding), suggest(sharding, SHARDING)))
    workers = share.total // share.count
    possible = lanes % workers == 0
    if sharding == "file" and not possible:
        came = f"{lanes} lanes for {workers}"
        remedy = 'sharding="data"; lanes divide the batch size, and are as many as there are files, up to 16; there is '
        remedy += "one where images are kept in memory or mixed, or come in reading order"
        raise ValueError(explain_mismatch("lanes of files that can be shared out evenly over all workers", came, remedy))
    return sharding != "data" and possible and workers > 1


def _buffer(source: Source, stored: tf.data.Dataset) -> int:
    """Among how many examples those that are not kept in memory are shuffled."""
    return max(1, min(source.size, source.size * BUFFER // _bytes(source, stored)))


def _shuffled(stored: tf.data.Dataset, buffer: int, seed: tf.Tensor) -> tf.data.Dataset:
    # `shuffle` mixes its seed with the graph's, which is the user's global one; this graph is one epoch's function,
    # so the setting goes no further. (With 0, TensorFlow would compare the other seed in Python, and fail.)
    tf.compat.v1.set_random_seed(1)
    one_seed = tf.random.stateless_uniform((), seed, maxval=2**31 - 1, dtype=tf.int64)
    return stored.shuffle(buffer, seed=one_seed, reshuffle_each_iteration=False)


def _bytes(source: Source, stored: tf.data.Dataset) -> int:
    return source.size * stored.element_spec["image"].shape.num_elements()


def _ready(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # Several workers share the examples, not the files: the embedded arrays and small datasets have one file.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(explain_mismatch(f"{name}: a whole number of at least {least}", repr(number)))
