"""What memory cannot be measured of; what it measures stands in its docstring, which runs, as it takes a process."""

import keras
import pytest

from kd_keras.evaluation import memory


def test_an_input_of_unknown_size_is_refused():
    with pytest.raises(ValueError, match="known shape"):
        dict(memory(keras.Sequential([keras.Input((None, 8, 1)), keras.layers.Conv2D(2, 3)])))
