"""Accuracy, agreement and cost against counts made by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Teacher
from kd_keras.evaluation import Answers, accuracy, agreement, answers, cost
from tests.methods.test_kd import log_softmax
from tests.networks import CLASSES, convolutional, examples

X, Y = examples(10)


def test_answers_are_the_logits_of_every_example_in_order():
    model = keras.Sequential([keras.Input(X.shape[1:]), convolutional(), keras.layers.Softmax()])
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    found = answers(model, data)
    np.testing.assert_allclose(found.logits, model.layers[0](X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.labels, Y)
    one_hot = answers(model, data.map(lambda x, y: (x, tf.one_hot(y, CLASSES))))
    np.testing.assert_array_equal(one_hot.labels, Y)
    assert answers(model, data.map(lambda x, y: x)).labels is None
    shifted = answers(model, data, preprocess=lambda images: images + 1)
    np.testing.assert_allclose(shifted.logits, model.layers[0](X + 1), rtol=1e-5, atol=1e-6)
    assert answers(Teacher([convolutional(), convolutional()]), data).logits.shape == (10, CLASSES)


def test_accuracy_and_agreement():
    random = np.random.default_rng(0)
    one, other = (random.normal(size=(50, 4)) for _ in range(2))
    labels = random.integers(0, 4, 50)
    by_hand = sum(int(np.argmax(row)) == label for row, label in zip(one, labels)) / 50
    assert dict(accuracy(Answers(one, labels))) == {"accuracy": pytest.approx(by_hand)}
    assert dict(accuracy(Answers(one, None))) == {}
    found = dict(agreement(Answers(one, labels), Answers(other, labels)))
    assert found["agreement"] == pytest.approx(sum(np.argmax(a) == np.argmax(b) for a, b in zip(one, other)) / 50)
    p = log_softmax(other)
    assert found["kl"] == pytest.approx((np.exp(p) * (p - log_softmax(one))).sum(-1).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="same examples"):
        dict(agreement(Answers(one, None), Answers(other[:9], None)))


def test_cost_counts_parameters_and_time():
    small, large = convolutional(2), convolutional(64)
    of_small, of_large = dict(cost(small, X, runs=20)), dict(cost(large, X, runs=20))
    assert of_small["parameters"] == 3 * 9 * 2 + 2 + 2 * 9 * 4 + 4 + 4 * CLASSES + CLASSES
    assert of_large["parameters"] > of_small["parameters"] and of_small["milliseconds"] > 0
