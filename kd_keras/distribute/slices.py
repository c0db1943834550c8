"""Slices of the global batch: which rows a worker produces, and functions that run on one slice per replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class BatchSlice(NamedTuple):
    """The slices of every global batch that one worker produces; the default is the whole batch.

    A global batch of B rows has one slice for each replica: slice s of n is the rows from `s * B // n` to
    `(s + 1) * B // n`.

    Attributes:
        first: the worker's first slice.
        count: the number of slices that the worker produces, one for each of its replicas.
        total: n, the number of slices of the batch.
    """

    first: int = 0
    count: int = 1  # type: ignore[assignment]  # a tuple has a method of that name; nothing uses it
    total: int = 1


def batches(strategy: tf.distribute.Strategy, make: Callable[[BatchSlice], tf.data.Dataset]) -> tf.data.Dataset:
    """The batches of all replicas: each worker produces different slices of every global batch.

    Args:
        strategy: the strategy whose replicas receive the batches.
        make: a function from a `BatchSlice` to the dataset of these slices, such as
            `lambda batch_slice: data.training(..., batch_slice=batch_slice)`.

    Returns:
        A dataset for `fit`, `evaluate` or `predict`; give Keras `steps_per_epoch` and `validation_steps` with it.

    >>> one = tf.distribute.get_strategy()
    >>> list(batches(one, lambda batch_slice: tf.data.Dataset.range(batch_slice.total)).as_numpy_iterator())
    [np.int64(0)]
    """
    total = strategy.num_replicas_in_sync
    if total == 1:
        return make(BatchSlice())

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        count = total // context.num_input_pipelines
        return make(BatchSlice(context.input_pipeline_id * count, count, total))

    return strategy.distribute_datasets_from_function(of_worker)


def map_over_replicas(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Divides a function's work over the replicas of the strategy in whose scope this is called.

    Use it outside `fit`, for example for predictions. Every worker calls the returned function with the same batches in
    the same order, and receives the result for the whole batch, without lost or repeated rows.

    Args:
        function: from a structure of tensors `(B, ...)` to a structure of tensors `(B, ...)`; a row of its result must
            not depend on other rows. It must not create variables.

    Returns:
        A function of the same arguments and results; call it within a `tf.function`.

    >>> map_over_replicas(lambda x: 2 * x)(tf.constant([1, 2])).numpy().tolist()
    [2, 4]
    """
    strategy = tf.distribute.get_strategy()
    total = strategy.num_replicas_in_sync
    if total == 1:
        return function

    def on_replica(rows: Any, size: tf.Tensor) -> Any:
        context = tf.distribute.get_replica_context()
        first = tf.cast(context.replica_id_in_sync_group, size.dtype) * size
        results = function(tf.nest.map_structure(lambda x: x[first : first + size], rows))
        # The copy is on this replica's device: over several workers TensorFlow cannot gather a tensor without a device.
        return tf.nest.map_structure(lambda y: context.all_gather(tf.identity(y), axis=0), results)

    def on_all(rows: Any) -> Any:
        count = tf.shape(tf.nest.flatten(rows)[0])[0]
        size = -(-count // total)
        indices = tf.minimum(tf.range(size * total), count - 1)  # copies of the last row pad the last slices
        padded = tf.nest.map_structure(lambda x: tf.gather(x, indices), rows)
        results = strategy.run(on_replica, (padded, size))
        return tf.nest.map_structure(lambda y: strategy.experimental_local_results(y)[0][:count], results)

    return on_all
