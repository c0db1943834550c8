"""Multiply-accumulates of every kind of layer, counted by hand."""

import keras
import pytest
from keras import layers

from kd_keras.evaluation import macs
from kd_keras.models.base import GroupedConv2D


@pytest.mark.parametrize(
    "layer, shape, count",
    [
        (layers.Dense(5), (7,), 35),
        (layers.Dense(5), (3, 7), 3 * 35),
        (layers.EinsumDense("abc,cd->abd", (3, 5)), (3, 7), 3 * 35),
        (layers.Conv1D(5, 3, padding="same"), (8, 4), 8 * 3 * 4 * 5),
        (layers.Conv2D(5, 3, strides=2, padding="same"), (8, 8, 4), 16 * 9 * 4 * 5),
        (layers.Conv2D(5, 3), (8, 8, 4), 36 * 9 * 4 * 5),
        (layers.Conv2D(6, 3, padding="same", dilation_rate=2), (8, 8, 4), 64 * 9 * 4 * 6),
        (layers.Conv2D(6, 3, padding="same", dilation_rate=6), (8, 8, 4), 64 * 9 * 4 * 6),
        (layers.Conv2D(6, 3, dilation_rate=2), (8, 8, 4), 16 * 9 * 4 * 6),
        (layers.DepthwiseConv2D(3, padding="same", dilation_rate=6), (8, 8, 4), 64 * 9 * 4),
        (layers.SeparableConv2D(5, 3, padding="same", dilation_rate=6), (8, 8, 4), 64 * (9 * 4 + 4 * 5)),
        (layers.Conv1D(5, 3, padding="same", dilation_rate=3), (8, 4), 8 * 3 * 4 * 5),
        (layers.Conv2D(6, 3, groups=2, padding="same"), (8, 8, 4), 64 * 9 * 2 * 6),
        (GroupedConv2D(6, 3, groups=2, padding="same"), (8, 8, 4), 64 * 9 * 2 * 6),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (8, 8, 4), 64 * 9 * 4 * 2),
        (layers.SeparableConv2D(5, 3, padding="same"), (8, 8, 4), 64 * (9 * 4 + 4 * 5)),
        (layers.Conv2DTranspose(5, 3, strides=2, padding="same"), (8, 8, 4), 64 * 4 * 5 * 9),
        (layers.Conv3D(5, 3, padding="same"), (4, 4, 4, 2), 64 * 27 * 2 * 5),
        (layers.BatchNormalization(), (8, 8, 4), 0),
        (layers.GlobalAveragePooling2D(), (8, 8, 4), 0),
    ],
)
def test_a_layer(layer, shape, count):
    assert macs(keras.Sequential([keras.Input(shape), layer])) == count


def test_attention():
    """Three projections and one back, of T x 16 to 2 x 8; queries with keys, and those products with values."""
    inputs = keras.Input((10, 16))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 8)(inputs, inputs))
    assert macs(model) == 4 * 10 * 16 * 16 + 2 * (2 * 10 * 10 * 8)


def test_nested_shared_and_subclassed_models():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(6)

        def call(self, inputs):
            return self.dense(self.dense(inputs))

    own = Own()
    inputs = keras.Input((6,))
    nested = keras.Model(inputs, layers.Dense(2)(own(inputs)))
    assert macs(nested) == 2 * 36 + 12
    assert macs(own, (6,)) == 72


class Branching(keras.Model):
    """Two matrix products if the mean is above 0, otherwise one."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(6), layers.Dense(6)

    def call(self, inputs):
        once = self.first(inputs)
        return keras.ops.cond(keras.ops.mean(inputs) > 0, lambda: self.second(once), lambda: once)


class Repeating(keras.Model):
    """A matrix product until the sum is above 10."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(6)

    def call(self, inputs):
        inputs = self.dense(inputs)
        return keras.ops.while_loop(lambda x: keras.ops.sum(x) < 10, lambda x: (self.dense(x),), (inputs,))[0]


def test_the_most_expensive_branch_of_a_condition_counts():
    model = Branching()
    model.build((None, 6))
    assert macs(model, (6,)) == 2 * 36


def test_the_body_of_a_loop_counts_once_with_a_warning(caplog):
    model = Repeating()
    model.build((None, 6))
    assert macs(model, (6,)) == 2 * 36
    assert "runs an unknown number of times" in caplog.text


def test_a_size_that_is_not_known():
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3, padding="same")])
    with pytest.raises(ValueError, match="Pass input_shape="):
        macs(model)
    assert macs(model, (8, 8, 3)) == 64 * 27 * 4
