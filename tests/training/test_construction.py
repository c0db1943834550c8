"""What a Distiller does with the steps, metrics and predictions that a student has of its own."""

import warnings

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.methods import KD
from tests.support.networks import CLASSES, compiled, convolutional, examples

X, Y = examples(8)
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def student(**members):
    body = convolutional()
    return type("Own", (keras.Model,), members)(body.input, body.output)


@pytest.mark.parametrize("name", ["train_step", "test_step", "compute_metrics"])
def test_a_step_that_is_not_used_is_named(name):
    with pytest.warns(UserWarning, match=f"has its own {name}, but a Distiller"):
        Distiller(student=student(**{name: lambda self, *args: None}))


def test_the_students_own_predictions_are_those_of_the_distiller():
    def predict_step(self, data):
        return keras.ops.argmax(keras.Model.predict_step(self, data), -1)

    own = student(predict_step=predict_step)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = Distiller(student=own, teacher=convolutional(6), methods=[KD()])
    compiled(model)
    predictions = model.predict(X, verbose=0)
    assert predictions.shape == (8,) and predictions.max() < CLASSES
    np.testing.assert_array_equal(predictions, own.predict(X, verbose=0))
