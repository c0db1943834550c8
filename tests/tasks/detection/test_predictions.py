"""Detections for a dataset: sizes, padding, labels, and what is rejected."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import models
from kd_keras.detection.decoding import Detections
from kd_keras.tasks.detection.predictions import predict_boxes
from tests.support.shapes import colored_rectangles

IMAGES, LABEL = colored_rectangles(5, size=24, sides=(6, 12))


class Brightness(keras.Model):
    """Finds one object in the upper left corner, whose score is the brightness of the image."""

    def __init__(self, label=0):
        images = keras.Input((24, 24, 3))
        super().__init__(inputs=images, outputs=keras.layers.GlobalAveragePooling2D()(images))
        self.label = label

    def call(self, images, **options):
        assert images.shape[1:] == self.input_shape[1:]
        return super().call(images, **options)

    def decode(self, outputs):
        ones = tf.ones((tf.shape(outputs)[0], 1), tf.int32)
        boxes = tf.cast(ones, tf.float32)[..., None] * tf.constant([2.0, 0.0, 12.0, 6.0])
        return Detections(boxes, tf.reduce_mean(outputs, -1)[:, None] / 255, self.label * ones, ones[:, 0])


def brightness(images):
    return images.mean((1, 2, 3))[:, None] / 255


def test_all_images_are_searched_in_order():
    predictions = predict_boxes(Brightness(), tf.data.Dataset.from_tensor_slices((IMAGES, LABEL)).batch(2), classes=3)
    np.testing.assert_allclose(predictions.detections.scores, brightness(IMAGES), rtol=1e-5)
    for key in LABEL:
        np.testing.assert_array_equal(predictions.labels[key], LABEL[key])
    assert (
        predictions.size == (24, 24) and predictions.classes == 3 and predictions.detections.count.tolist() == [1] * 5
    )


def test_boxes_are_in_pixels_of_the_data_or_of_a_given_size():
    large = np.repeat(np.repeat(IMAGES, 2, 1), 3, 2)
    predictions = predict_boxes(Brightness(), tf.data.Dataset.from_tensors(large), classes=3)
    assert predictions.size == (48, 72) and predictions.labels is None
    np.testing.assert_allclose(predictions.detections.boxes[:, 0], [[6, 0, 36, 12]] * 5)
    np.testing.assert_allclose(predictions.detections.scores, brightness(IMAGES), rtol=1e-2)
    given = predict_boxes(Brightness(), tf.data.Dataset.from_tensors(IMAGES), classes=3, size=(12, 24))
    np.testing.assert_allclose(given.detections.boxes[:, 0], [[2, 0, 12, 3]] * 5)


def test_images_are_preprocessed():
    data = tf.data.Dataset.from_tensors(IMAGES)
    predictions = predict_boxes(Brightness(), data, classes=3, preprocess=lambda images: images / 2)
    np.testing.assert_allclose(predictions.detections.scores, brightness(IMAGES) / 2, rtol=1e-5)


def test_rows_of_weight_0_are_left_out():
    weight = np.array([1, 1, 0, 1, 0], "float32")
    predictions = predict_boxes(Brightness(), tf.data.Dataset.from_tensors((IMAGES, LABEL, weight)), classes=3)
    np.testing.assert_allclose(predictions.detections.scores, brightness(IMAGES)[[0, 1, 3]], rtol=1e-5)
    np.testing.assert_array_equal(predictions.labels["classes"], LABEL["classes"][[0, 1, 3]])


def test_a_network_finds_what_it_finds_outside():
    keras.utils.set_random_seed(0)
    network = models.build("detector/resnet8", (24, 24, 3), 3, pyramid=(2,), width=8, depth=1, anchor_scale=2.5)
    options = {"score_threshold": 0.0, "candidates": 20, "detections": 6}
    predictions = predict_boxes(network, tf.data.Dataset.from_tensors(IMAGES), classes=3, **options)
    expected = network.detect(IMAGES, **options)
    assert predictions.detections.count.min() > 0
    np.testing.assert_allclose(predictions.detections.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(predictions.detections.scores, expected.scores, atol=1e-5)


def test_what_cannot_be_handled_is_rejected():
    with pytest.raises(ValueError, match='labels with "boxes" and "classes"'):
        predict_boxes(Brightness(), tf.data.Dataset.from_tensors((IMAGES, np.zeros(5))), classes=3)
    free = tf.data.Dataset.from_generator(
        lambda: iter([IMAGES]), output_signature=tf.TensorSpec((None, None, None, 3), tf.float32)
    )
    with pytest.raises(ValueError, match=r"size=\(height, width\)"):
        predict_boxes(Brightness(), free, classes=3)
    with pytest.raises(ValueError, match="2 classes of the data.*the class 5"):
        predict_boxes(Brightness(5), tf.data.Dataset.from_tensors(IMAGES), classes=2)


def test_a_detector_that_is_not_finite_is_refused():
    network = models.build("detector/resnet8", (24, 24, 3), 3, pyramid=(2,), width=8)
    for variable in network.trainable_variables:
        variable.assign(np.full(variable.shape, np.nan))
    with pytest.raises(ValueError, match="finite outputs of .*, but received NaN or infinity"):
        predict_boxes(network, tf.data.Dataset.from_tensors(IMAGES), classes=3)


def test_a_single_batch_that_is_not_finite_is_refused():
    images = IMAGES.astype("float32")
    images[-1] = np.nan
    with pytest.raises(ValueError, match="finite outputs of .*, but received NaN or infinity"):
        predict_boxes(Brightness(), tf.data.Dataset.from_tensor_slices(images).batch(2), classes=3)
