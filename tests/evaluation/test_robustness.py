"""Errors on corrupted images compared with separate passes, and the ratio to the teacher's errors."""

import keras
import numpy as np
import pytest

from kd_keras import Teacher
from kd_keras.data.corruptions import corrupt
from kd_keras.evaluation import robustness
from tests.support.networks import CLASSES, SHAPE, convolutional

RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.integers(0, 256, (30, *SHAPE)).astype("uint8"), RANDOM.integers(0, CLASSES, 30)
NAMES = ["gaussian_noise", "contrast"]


def test_errors_of_every_severity_and_the_ratio_to_the_teachers():
    model, teacher = convolutional(name="one"), convolutional(8, name="other")
    of_teacher = dict(robustness(teacher, IMAGES, LABELS, corruptions=NAMES, batch_size=7))
    findings = dict(robustness(model, IMAGES, LABELS, of_teacher, NAMES))
    assert set(findings) == {"error_gaussian_noise", "error_contrast", "corruption_error", "mce"} == set(of_teacher)
    by_hand = {}
    for name in NAMES:
        corrupted = [corrupt(IMAGES, name, severity).astype("float32") for severity in range(1, 6)]
        for net in (model, teacher):
            wrong = [np.mean(np.argmax(net(batch), -1) != LABELS) for batch in corrupted]
            by_hand.setdefault(name, {})[net] = wrong
        np.testing.assert_allclose(findings[f"error_{name}"], by_hand[name][model])
        np.testing.assert_allclose(of_teacher[f"error_{name}"], by_hand[name][teacher])
    assert findings["corruption_error"] == pytest.approx(np.mean([by_hand[name][model] for name in NAMES]))
    assert of_teacher["mce"] == 1
    assert findings["mce"] == pytest.approx(np.mean([sum(by_hand[n][model]) / sum(by_hand[n][teacher]) for n in NAMES]))


def test_a_teachers_preprocessing_is_part_of_it():
    model = convolutional()
    shifted = Teacher(model, preprocess=lambda images: 40 * images / 255 - 20, class_order=[4, 3, 2, 1, 0])
    findings = dict(robustness(shifted, IMAGES, LABELS, corruptions=["contrast"]))["error_contrast"]
    corrupted = corrupt(IMAGES, "contrast", 5) / np.float32(255)
    assert findings[4] == pytest.approx(np.mean(4 - np.argmax(model(40 * corrupted - 20), -1) != LABELS))


def test_a_teacher_without_errors():
    perfect = {"error_gaussian_noise": np.zeros(5), "error_contrast": np.full(5, 0.5)}
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    findings = dict(robustness(model, IMAGES, LABELS, perfect, NAMES))
    assert findings["mce"] == pytest.approx(findings["error_contrast"].sum() / 2.5)
    perfect["error_contrast"] = np.zeros(5)
    assert np.isnan(dict(robustness(model, IMAGES, LABELS, perfect, NAMES))["mce"])
    with pytest.raises(ValueError, match="error_contrast"):
        dict(robustness(model, IMAGES, LABELS, {"error_gaussian_noise": np.zeros(5)}, NAMES))
    with pytest.raises(ValueError, match="each of 30 images"):
        dict(robustness(model, IMAGES, LABELS[:3]))


def test_images_and_names_that_cannot_be_corrupted_are_refused():
    model = convolutional()
    with pytest.raises(ValueError, match=r"1 or 3\) uint8, but received \(1, 16, 16, 4\)"):
        dict(robustness(model, np.zeros((3, 16, 16, 4), "uint8"), LABELS[:3]))
    with pytest.raises(ValueError, match="name of a corruption, but received 'fogg'"):
        dict(robustness(model, IMAGES, LABELS, corruptions=["fogg"]))
