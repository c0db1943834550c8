"""What replicas need besides reductions: different random numbers, a treatment of empty slices, common branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from kd_keras.contracts import Batch, Tensor
from kd_keras.distribute.reductions import count_rows, replica_count
from kd_keras.networks.fake_quantization import FakeQuantize
from kd_keras.private_api import seed_generators, sub_layers, updates_without_merge_call

SEED_DISTANCE = 1_000_003  # between the seeds of two replicas


def seed_replicas(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Gives every replica different random numbers, for example in dropout; replica 0 has those of a single device.

    Call it once, after building or restoring: a checkpoint contains the states of replica 0. A method with
    `across_replicas` must draw the same numbers on all replicas, so its generators do not change.

    Args:
        strategy: the strategy in whose scope the model was built.
        model: the model whose layers draw random numbers.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    layers = [layer for layer in sub_layers(model) if not getattr(layer, "across_replicas", False)]
    states = [generator.state for layer in layers for generator in seed_generators(layer)]

    def shift() -> None:
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, "int64")
        for state in states:
            state.assign(state + tf.cast(tf.stack([replica * SEED_DISTANCE, 0]), state.dtype))

    if states:
        tf.function(lambda: strategy.run(shift))()


def synchronize_batch_norm(model: keras.Model) -> int:
    """Makes every BatchNorm of a model compute over the global batch; call it before the first step.

    Returns:
        The number of layers that changed.

    >>> synchronize_batch_norm(keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()]))
    1
    """
    layers = [layer for layer in sub_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    unsynchronized = [layer for layer in layers if not layer.synchronized]
    for layer in unsynchronized:
        layer.synchronized = True
    return len(unsynchronized)


def synchronize_ranges(model: keras.Model) -> int:
    """Makes the ranges of a quantization-aware model follow the global batch, so that all replicas have the same.

    Returns:
        The number of ranges.

    >>> synchronize_ranges(keras.Sequential([keras.Input((4,)), FakeQuantize()]))
    1
    """
    quantizers = [layer for layer in sub_layers(model) if isinstance(layer, FakeQuantize)]
    for quantizer in quantizers:
        quantizer.reduce_range = _range_over_replicas
    return len(quantizers)


def _range_over_replicas(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return low, high
    ranges = context.all_gather(tf.stack([low, high])[None], axis=0)
    return tf.reduce_min(ranges[:, 0]), tf.reduce_max(ranges[:, 1])


def require_rows(batch: Batch) -> Batch:
    """Returns the same batch; its use fails with a clear error if this replica has no row, because layers need one.

    Raises:
        tf.errors.InvalidArgumentError: in the step, if the slice of a replica is empty.
    """
    replicas = replica_count()
    if replicas == 1:
        return batch
    message = (
        f"Expected an example for each of {replicas} replicas in every batch, but one of them received none. Use "
        "drop_remainder=True, another batch size, or kd_keras.distribute.batches."
    )
    with tf.control_dependencies([tf.debugging.assert_positive(count_rows(batch), message=message)]):
        return batch._replace(inputs=tree.map_structure(tf.identity, batch.inputs))


def run_without_rows(function: Callable[[Any], Any], inputs: Any) -> Any:
    """Runs a function of rows `(B, ...)` in inference, also on a replica whose slice of the last batch is empty.

    TensorFlow's fused convolutions fail on a batch of 0 rows, so a row of zeros is added and removed afterwards.
    """
    if replica_count() == 1:
        return function(inputs)
    rows = tf.shape(tree.flatten(inputs)[0])[0]
    missing = [(0, ops.maximum(1 - rows, 0))]
    padded = tree.map_structure(lambda x: tf.pad(x, missing + [(0, 0)] * (len(x.shape) - 1)), inputs)
    return tree.map_structure(lambda x: x[:rows], function(padded))


def branch_together(condition: Tensor, accept: Callable[..., None], reject: Callable[..., None], *args: Any) -> None:
    """Runs one of two functions in every replica; all replicas take the same branch.

    Args:
        condition: `()` bool, the same on all replicas.
        accept: runs if the condition is true; it may assign variables and apply gradients.
        reject: runs otherwise.
        args: this replica's tensors, the arguments of both functions.
    """
    if updates_without_merge_call():
        tf.cond(condition, lambda: accept(*args), lambda: reject(*args))
        return

    def merged(strategy: tf.distribute.Strategy, condition: Any, *args: Any) -> None:
        # An update merges all replicas, which it cannot do from inside the branch of one: so one branch contains all.
        condition, run = strategy.experimental_local_results(condition)[0], strategy.extended.call_for_each_replica
        tf.cond(condition, lambda: run(accept, args=args), lambda: run(reject, args=args))

    tf.distribute.get_replica_context().merge_call(merged, args=(condition, *args))
