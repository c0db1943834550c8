"""Slices of the global batch: which rows a worker makes, and functions that run on one slice per replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class BatchSlice(NamedTuple):
    """Which parts of every global batch one worker makes: `count` parts from `first` on, of `total`, one per replica.

    The default is the whole batch. Part p of a batch of B rows is the rows from `p * B // total` to
    `(p + 1) * B // total`.
    """

    first: int = 0
    count: int = 1
    total: int = 1


def batches(strategy: tf.distribute.Strategy, make: Callable[[BatchSlice], tf.data.Dataset]) -> tf.data.Dataset:
    """The batches of all replicas: each worker makes its own parts of every global batch, and no row twice.

    Args:
        strategy: where they go.
        make: makes the dataset of a `BatchSlice`, such as `lambda share: data.training(..., share=share)`.

    Returns:
        A dataset for `fit`, `evaluate` or `predict`; give Keras `steps_per_epoch` and `validation_steps` with it.

    >>> list(batches(strategy("one"), lambda share: tf.data.Dataset.range(share.total)).as_numpy_iterator())
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
    """A function of a batch of which the replicas compute a part each, under the strategy in whose scope this is.

    For work beside `fit`, such as a network's answers: every worker calls it with the same batches, in the same order,
    and gets the whole result. No row is lost or given twice; copies of the last one fill up the last replica's part.

    Args:
        function: from tensors `(B, ...)`, or a structure of them, to a structure of tensors `(B, ...)`; a row of its
            result must not depend on other rows. It may make no variables.

    Returns:
        A function of the same arguments and results; call it within a `tf.function`.

    >>> map_over_replicas(lambda x: 2 * x)(tf.constant([1, 2])).numpy().tolist()
    [2, 4]
    """
    strategy = tf.distribute.get_strategy()
    total = strategy.num_replicas_in_sync
    if total == 1:
        return function

    def part(rows: Any, each: tf.Tensor) -> Any:
        context = tf.distribute.get_replica_context()
        first = tf.cast(context.replica_id_in_sync_group, each.dtype) * each
        found = function(tf.nest.map_structure(lambda x: x[first : first + each], rows))
        # A copy, on this replica's device: over several workers TensorFlow gathers nothing whose device is open.
        return tf.nest.map_structure(lambda y: context.all_gather(tf.identity(y), axis=0), found)

    def whole(rows: Any) -> Any:
        size = tf.shape(tf.nest.flatten(rows)[0])[0]
        each = -(-size // total)
        taken = tf.minimum(tf.range(each * total), size - 1)
        found = strategy.run(part, (tf.nest.map_structure(lambda x: tf.gather(x, taken), rows), each))
        return tf.nest.map_structure(lambda y: strategy.experimental_local_results(y)[0][:size], found)

    return whole
