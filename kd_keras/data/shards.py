"""Reads a large dataset of several files by shards, so that each of several workers opens only its own files."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kd_keras.data.base import Source
from kd_keras.data.examples import Examples, InMemory, Streamed, count_buffered, fits_in_memory, shuffle, store
from kd_keras.data.settings import BatchSettings, ViewSettings
from kd_keras.distribute.slices import BatchSlice
from kd_keras.errors import check_choice, explain_mismatch

MAX_SHARDS = 16  # the largest number of shards of a dataset of several files
SHARDING = ("auto", "data", "file")


class Sharded:
    """Reads consecutive shards of a source side by side; each contributes an equal part of every batch.

    With several workers, worker w of n reads shards w, w + n, w + 2n, ... if `by_file` is true, else all shards.
    """

    def __init__(
        self,
        source: Source,
        count: int,
        views: ViewSettings,
        batching: BatchSettings,
        batch_slice: BatchSlice,
        by_file: bool,
    ):
        self.sources = source.shards(count)
        self.stored = [store(shard, views.image_size) for shard in self.sources]
        self.buffer = max(1, count_buffered(source, self.stored[0]) // count)
        self.rows_per_batch, self.drop_remainder = batching.batch_size // count, batching.drop_remainder
        self.steps = batching.count_steps(source)
        worker, workers = (batch_slice.first // batch_slice.count, _count_workers(batch_slice)) if by_file else (0, 1)
        self.numbers = range(worker, count, workers)
        # The batches of a worker that reads by file have only its own rows, which its replicas divide.
        self.remaining_slice = BatchSlice(0, batch_slice.count, batch_slice.count) if by_file else batch_slice

    def batches(self, seed: tf.Tensor) -> tf.data.Dataset:
        shards = tuple(self._read(number, tf.random.fold_in(seed, number)) for number in self.numbers)
        return tf.data.Dataset.zip(shards).map(
            lambda *parts: tf.nest.map_structure(lambda *columns: tf.concat(columns, 0), *parts)
        )

    def rows(self, batch: Any) -> dict[str, tf.Tensor]:
        return batch

    def _read(self, number: int, seed: tf.Tensor) -> tf.data.Dataset:
        # A shard may have one batch less than the others, and then has no row in the last one.
        batches = shuffle(self.stored[number], self.buffer, seed).batch(self.rows_per_batch, self.drop_remainder)
        spec = self.stored[number].element_spec
        empty = tf.nest.map_structure(lambda column: tf.zeros((0, *column.shape), column.dtype), spec)
        missing = self.steps - math.ceil(self.sources[number].size / self.rows_per_batch)
        return batches.concatenate(tf.data.Dataset.from_tensors(empty)) if missing > 0 else batches.take(self.steps)


def open_examples(
    source: Source, views: ViewSettings, batching: BatchSettings, batch_slice: BatchSlice, sharding: str
) -> Examples:
    """Chooses how the examples are read: from memory if they fit, else by shards if possible, else in one stream.

    Raises:
        ValueError: if `sharding` is unknown, sharding by file is required but not possible, or batches cannot have
            several images of each identity as required.
    """
    stored = store(source, views.image_size)
    is_in_memory = batching.cache and fits_in_memory(source, stored)
    batching.check_identities(source, views, is_in_memory)
    # A mixed batch, or one in reading order, depends on all shards.
    count = 1 if is_in_memory or views.mixes_batches or not batching.shuffle else _count_shards(source, batching)
    by_file = _reads_by_file(sharding, count, batch_slice)
    if count > 1:
        return Sharded(source, count, views, batching, batch_slice, by_file)
    return (InMemory if is_in_memory else Streamed)(source, stored, batching, batch_slice)


def _count_shards(source: Source, batching: BatchSettings) -> int:
    """The number of shards; it does not depend on the number of workers, so that their batches are the same."""
    most = min(MAX_SHARDS, source.files if source.read_range is not None else 1)
    return max(number for number in range(1, most + 1) if batching.batch_size % number == 0)


def _count_workers(batch_slice: BatchSlice) -> int:
    return batch_slice.total // batch_slice.count


def _reads_by_file(sharding: str, shards: int, batch_slice: BatchSlice) -> bool:
    """Whether each of several workers reads only its own shards."""
    check_choice("training", "sharding", sharding, SHARDING)
    workers = _count_workers(batch_slice)
    is_possible = shards % workers == 0
    if sharding == "file" and not is_possible:
        advice = (
            'pass sharding="data". The number of shards divides the batch size and is at most the number of files and '
            f"{MAX_SHARDS}. It is 1 if images are kept in memory or mixed, or are not shuffled"
        )
        expected = "a number of shards that is a multiple of the number of workers, for sharding='file'"
        raise ValueError(explain_mismatch(expected, f"{shards} shards for {workers} workers", advice))
    return sharding != "data" and is_possible and workers > 1
