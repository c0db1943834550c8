"""What differs between replicas inside a step, and what is computed over all of them."""

from __future__ import annotations

import keras
import tensorflow as tf

APART = 1_000_003  # between the seeds of two replicas


def seed_replicas(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Gives every replica random numbers of its own, in dropout for instance; replica 0 keeps what it would have alone.

    Call it once, after building or restoring: a checkpoint holds the states of replica 0. A method that is given the
    global batch must draw the same on all, and keeps its numbers.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    layers = [layer for layer in model._flatten_layers() if not getattr(layer, "across_replicas", False)]
    states = [seed.state for layer in layers for seed in getattr(layer, "_seed_generators", ())]

    def shift() -> None:
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, "int64")
        for state in states:
            state.assign(state + tf.cast(tf.stack([replica * APART, 0]), state.dtype))

    if states:
        tf.function(lambda: strategy.run(shift))()


def synchronize_batch_norm(model: keras.Model) -> int:
    """Lets every BatchNorm of a model compute over the global batch; call it before the first step.

    Returns:
        How many layers changed.

    >>> synchronize_batch_norm(keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()]))
    1
    """
    layers = [each for each in model._flatten_layers() if isinstance(each, keras.layers.BatchNormalization)]
    changed = [layer for layer in layers if not layer.synchronized]
    for layer in changed:
        layer.synchronized = True
    return len(changed)
