"""What memory cannot be measured for. The measurement itself, which takes a process, is tested by its docstring."""

import keras
import pytest

from kd_keras.evaluation import memory


def test_an_input_of_unknown_size_is_an_error():
    with pytest.raises(ValueError, match="known shape"):
        dict(memory(keras.Sequential([keras.Input((None, 8, 1)), keras.layers.Conv2D(2, 3)])))
