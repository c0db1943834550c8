"""A training that has learned nothing, or whose loss exploded, is not called finished without a word."""

import warnings

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from tests.support.networks import compiled, convolutional

random = np.random.default_rng(0)
Y = random.integers(0, 5, 200)
X = np.eye(5, dtype="float32")[Y] @ random.normal(size=(5, 8 * 8 * 3)).astype("float32")
X = X.reshape(200, 8, 8, 3) + random.normal(size=(200, 8, 8, 3)).astype("float32") / 4


def student(rate=0.1, **options):
    keras.utils.set_random_seed(0)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    return compiled(Distiller(student=convolutional()), optimizer=optimizer, jit_compile=False, **options)


@pytest.mark.parametrize("is_validated", [False, True])
def test_accuracy_at_chance_is_said(is_validated):
    options = {"validation_data": (X, Y)} if is_validated else {}
    with pytest.warns(UserWarning, match="After training the student is right on .* of 200 examples; chance is 20.0%"):
        student().fit(X, random.permutation(Y), epochs=1, verbose=0, **options)


def test_a_loss_that_explodes_is_said():
    model = student(rate=0.0, metrics=None)
    layer = model.student.get_layer("logits")
    grow = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: layer.kernel.assign(1e6 * layer.kernel))
    with pytest.warns(UserWarning, match=r"The loss rose from .* in the first epoch to .* in the last"):
        model.fit(X, Y, epochs=2, callbacks=[grow], verbose=0)


def test_a_training_that_works_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        student().fit(X, Y, epochs=4, batch_size=20, validation_data=(X, Y), verbose=0)
