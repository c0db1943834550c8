"""Evaluation takes a model's own probabilities, whatever its last layer is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.special import softmax

from kd_keras.contracts import TapSpec
from kd_keras.data.base import Source
from kd_keras.evaluation import calibration
from kd_keras.evaluation.base import class_logits, predict
from kd_keras.evaluation.evaluator import Candidate, Evaluator

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype("uint8")
LABELS = np.random.default_rng(1).integers(0, 2, 64)


def network(units, activation, *after):
    keras.utils.set_random_seed(0)
    body = [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu")]
    return keras.Sequential([*body, layers.GlobalAveragePooling2D(), layers.Dense(units, activation), *after])


class Hidden(keras.Model):
    def __init__(self, activation, units):
        super().__init__()
        self.inner, self.activation = network(units, None), activation

    def call(self, images):
        return self.activation(self.inner(images))


def hidden(activation, units=3):
    model = Hidden(activation, units)
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


def data(images=IMAGES, labels=LABELS):
    return tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels)).batch(16)


@pytest.mark.parametrize(
    "model",
    [
        network(3, "softmax"),
        network(3, "softmax", layers.Activation("linear", dtype="float32")),
        network(3, None, layers.Lambda(keras.ops.softmax)),
        hidden(keras.ops.softmax),
    ],
)
def test_the_softmax_of_the_predictions_is_what_the_model_predicts(model):
    want = model.predict(IMAGES.astype("float32"), verbose=0)
    predictions = predict(model, data())
    np.testing.assert_allclose(softmax(predictions.logits, -1), want, rtol=1e-4, atol=1e-6)
    # Guo et al., equation 3, from the model's own probabilities
    confidence, correct = want.max(-1), want.argmax(-1) == LABELS
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    error = sum(abs(confidence[bins == b].mean() - correct[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert dict(calibration(predictions))["ece"] == pytest.approx(error, abs=1e-5)


@pytest.mark.parametrize(
    "model, logit", [(network(1, "sigmoid"), False), (network(1, None), True), (hidden(keras.ops.sigmoid, 1), False)]
)
def test_a_single_unit_has_the_probabilities_of_two_classes(model, logit):
    output = np.asarray(model.predict(IMAGES.astype("float32"), verbose=0), "float64")
    p = 1 / (1 + np.exp(-output)) if logit else output
    predictions = predict(model, data())
    assert predictions.logits.shape == (64, 2)
    np.testing.assert_allclose(softmax(predictions.logits, -1)[:, 1:], p, rtol=1e-4)


def test_a_sigmoid_for_each_class_is_normalized_with_a_warning(caplog):
    model = network(3, "sigmoid")
    p = model.predict(IMAGES.astype("float32"), verbose=0)
    np.testing.assert_allclose(softmax(predict(model, data()).logits, -1), p / p.sum(-1, keepdims=True), rtol=1e-4)
    assert "its probabilities are divided by their sum" in caplog.text


def test_logits_stay_as_they_are():
    logits = np.random.default_rng(0).normal(size=(20, 3))
    for activation in ("linear", "softmax", ""):
        assert class_logits(logits, TapSpec("dense", (None, 3), activation)) is logits


def test_the_evaluator_takes_a_network_of_one_unit_for_two_classes():
    columns = {"image": IMAGES, "label": LABELS.astype("int64"), "index": np.arange(64)}
    names = ("cat", "dog")
    test = Source(tf.data.Dataset.from_tensor_slices(columns), "noise", 64, 2, names, (8, 8, 3))
    evaluator = Evaluator(test, ["attention"], batch_size=16, examples=16)
    teacher, unit = network(2, None), network(1, "sigmoid")
    correct = (unit.predict(IMAGES.astype("float32"), verbose=0)[:, 0] > 0.5) == LABELS
    networks = Candidate("teacher", teacher, names), Candidate("unit", unit, names)
    evaluator.evaluate([*networks, Candidate("reversed", unit, names[::-1])])
    found = {name: findings["accuracy"] for name, findings in evaluator.findings.items()}
    assert found["unit"] == pytest.approx(correct.mean()) == 1 - found["reversed"]
    assert evaluator.findings["unit"]["attention_correlation"] <= 1
