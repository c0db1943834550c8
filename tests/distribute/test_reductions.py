"""The weighted mean over the global batch, against closed forms, on one replica and on slices of unequal size."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras.contracts import Batch
from kd_keras.distribute.reductions import mean_of_counted_rows, weighted_global_mean
from tests.support.networks import mirrored

LOSS, WEIGHT = np.array([2.0, 4.0, 6.0, 8.0, 10.0], "float32"), np.array([1.0, 0.0, 2.0, 1.0, 0.5], "float32")


def unscaled(loss):
    return loss


def test_terms_weights_sample_weights_and_regularization():
    batch = Batch(tf.zeros((5, 2)), weight=tf.constant(WEIGHT))
    terms = {"kd": (0.5, tf.constant(LOSS)), "hard": (0.1, tf.constant(3.0))}
    mean = weighted_global_mean(terms, [tf.constant(0.25), tf.constant(0.5)], batch, lambda loss: 1024.0 * loss)
    kd = (LOSS * WEIGHT).sum() / 5
    expected = {"kd": kd, "hard": 3.0, "regularization": 0.75, "loss": 0.5 * kd + 0.3 + 0.75}
    assert {name: float(value) for name, value in mean.means.items()} == pytest.approx(expected)
    assert float(mean.objective) == pytest.approx(1024 * expected["loss"]) and mean.fraction == 1.0


def test_the_objectives_of_unequal_slices_add_up_to_the_mean_of_the_global_batch():
    strategy = mirrored(2)
    slices = [slice(0, 3), slice(3, 5)]
    losses = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(LOSS[slices[context.replica_id_in_sync_group]])
    )

    @tf.function
    def run(loss):
        return strategy.run(
            lambda loss: weighted_global_mean({"kd": (2.0, loss)}, [tf.constant(0.5)], Batch(loss), unscaled), (loss,)
        )

    mean = run(losses)
    objectives = [float(value) for value in strategy.experimental_local_results(mean.objective)]
    assert sum(objectives) == pytest.approx(2 * LOSS.mean() + 0.5)
    fractions = [float(value) for value in strategy.experimental_local_results(mean.fraction)]
    assert fractions == pytest.approx([0.6, 0.4])


def test_a_structure_of_sample_weights_is_for_the_hard_loss_only():
    batch = Batch(tf.zeros((5, 2)), weight={"a": tf.constant(WEIGHT)})
    assert float(weighted_global_mean({"hard": (1.0, tf.constant(3.0))}, [], batch, unscaled).means["loss"]) == 3
    with pytest.raises(ValueError, match=r"one sample weight.*\(5,\)"):
        weighted_global_mean({"kd": (1.0, tf.constant(LOSS))}, [], batch, unscaled)


def test_padding_rows_do_not_count():
    batch = Batch(tf.zeros((5, 2)), weight=tf.constant(WEIGHT))
    mean, count = mean_of_counted_rows(tf.constant(4.0), batch)
    assert (float(mean), float(count)) == (5.0, 4.0)
    mean, count = mean_of_counted_rows(tf.constant(0.0), Batch(tf.zeros((0, 2))))
    assert (float(mean), float(count)) == (0.0, 0.0)
