"""What memory cannot be measured for. The measurement itself, which takes a process, is tested by its docstring."""

import keras
import pytest

from kd_keras.evaluation import memory


def test_an_input_of_unknown_size_is_an_error():
    with pytest.raises(ValueError, match="known shape"):
        dict(memory(keras.Sequential([keras.Input((None, 8, 1)), keras.layers.Conv2D(2, 3)])))


def test_a_subclassed_model_is_measured_with_a_given_shape():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = keras.layers.Conv2D(16, 1)

        def call(self, inputs):
            return self.convolution(inputs)

    model = Subclassed()
    model(keras.ops.zeros((1, 32, 32, 3)))
    assert dict(memory(model, 8, (32, 32, 3)))["megabytes"] > 0
