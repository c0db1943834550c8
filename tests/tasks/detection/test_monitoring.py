"""The average precision of detectors on the validation images of a training."""

from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras.detection.decoding import Detections
from kd_keras.tasks.detection.monitoring import precision_function
from kd_keras.tasks.monitoring import MeasureStudent

LABEL = {"boxes": np.array([[[0.0, 0.0, 0.5, 1.0]]] * 3, "float32"), "classes": np.array([[0], [1], [0]])}
IMAGES = np.zeros((3, 8, 8, 3), "float32")


class FindsEveryBoxAsClassZero(keras.Model):
    """Stands for a detector: it finds the box of every image, and takes every object for class 0."""

    traces = 0

    def decode(self, outputs):
        self.traces += 1
        count = tf.shape(outputs)[0]
        box = tf.tile([[[0.0, 0.0, 8.0, 4.0]]], [count, 1, 1])
        return Detections(box, tf.fill([count, 1], 0.9), tf.zeros([count, 1], tf.int32), tf.ones([count], tf.int32))


@pytest.fixture
def callback():
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABEL)).batch(2)
    measuring = partial(precision_function, classes=2)
    callback = MeasureStudent(lambda: batches, measuring, metrics=("ap", "ap50"), epochs=(1, 2))
    images = keras.Input((8, 8, 3))
    callback.set_model(SimpleNamespace(student=FindsEveryBoxAsClassZero(inputs=images, outputs=images)))
    return callback


def test_the_logs_of_a_validation_have_the_average_precision(callback):
    for epoch in range(2):
        logs = {"loss": 1.0, "val_loss": 2.0}
        callback.on_epoch_end(epoch, logs)
        # Of class 0 the detections are right, wrong and right in the order of the images, as all scores are the same:
        # a precision of 1 at 51 of 101 recalls and of 2/3 at the others. Of class 1 nothing is found.
        precision = (51 * 1.0 + 50 * 2 / 3) / 101
        assert logs["val_ap"] == logs["val_ap50"] == pytest.approx(precision / 2, abs=1e-6)
    assert callback.model.student.traces == 1


def test_an_epoch_without_validation_has_none(callback):
    logs = {"loss": 1.0}
    callback.on_epoch_end(2, logs)
    assert logs == {"loss": 1.0}
