"""WSLD against NumPy in float64, with constant weights."""

import functools

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.methods import WSLD, soft_cross_entropy_loss, wsld_loss
from tests.support.networks import convolutional, examples
from tests.support.reference import Case, log_softmax, random


def weights(student, teacher, labels):
    errors = [
        [-log_softmax(z)[y] for z, y in zip(side.astype("float64"), labels, strict=True)] for side in (student, teacher)
    ]
    return np.array([1 - np.exp(-max(0.0, e_s / (e_t + 1e-7))) for e_s, e_t in zip(*errors, strict=True)])


def reference(student, teacher, labels, temperature=2.0, at=None):
    """The weights are those of the student `at`, so that they are constant in numerical differences."""
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    entropies = [-sum(np.exp(t) * s for t, s in zip(*logs, strict=True)) for logs in zip(log_t, log_s, strict=True)]
    return temperature**2 * weights(at[: len(student)], teacher, labels) * np.array(entropies)


def case(name, scale=1.0, classes=10, **settings):
    student, teacher = (random(16, classes, seed=seed, scale=scale) for seed in (1, 2))
    labels = np.random.default_rng(3).integers(0, classes, 16)
    expected = functools.partial(reference, at=student, **settings)
    return Case(name, functools.partial(wsld_loss, **settings), expected, student, (teacher, labels))


CASES = [
    case("ImageNet recipe", classes=100),
    case("temperature 1, larger logits", scale=8.0, temperature=1.0),
    case("logits to 400", scale=130.0),
]


def test_weights_of_a_confident_teacher_are_accurate():
    """Errors of 1e-6, for which the logarithm of a softmax in float32 has no correct digits."""
    student, teacher = np.array([[13.0, 0.0]], "float32"), np.array([[12.5, 0.0]], "float32")
    expected = reference(student.astype("float64"), teacher.astype("float64"), [0], at=student)
    np.testing.assert_allclose(wsld_loss(student, teacher, np.array([0])), expected, rtol=1e-5)


def test_examples_with_a_smaller_student_error_have_smaller_weights():
    student, teacher, labels = random(32, 5, seed=1, scale=3.0), random(32, 5, seed=2, scale=3.0), np.arange(32) % 5
    ratio = wsld_loss(student, teacher, labels) / soft_cross_entropy_loss(student, teacher, temperature=2.0)
    np.testing.assert_allclose(ratio, weights(student, teacher, labels), rtol=1e-5)
    better = np.array([log_softmax(s)[y] > log_softmax(t)[y] for s, t, y in zip(student, teacher, labels, strict=True)])
    assert np.max(ratio[better]) < 1 - np.exp(-1) < np.min(ratio[~better])


def test_labels_of_every_form():
    student, teacher, labels = random(4, 3, seed=1), random(4, 3, seed=2), np.array([2, 0, 1, 2])
    expected = np.array(wsld_loss(student, teacher, labels))
    for form in (labels[:, None], labels.astype("float32"), np.eye(3)[labels]):
        np.testing.assert_array_equal(wsld_loss(student, teacher, form), expected)
    with pytest.raises(ValueError, match=r"(?s)labels \(B,\).*but received.*Use a dataset"):
        wsld_loss(student, teacher, np.eye(4)[labels])


def test_data_without_labels_raises():
    distiller = Distiller(student=convolutional(), teacher=convolutional(), methods=[WSLD()], hard_weight=0)
    distiller.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="labels.*WSLD, but received none"):
        distiller.fit(examples()[0], verbose=0)


def test_an_invalid_temperature_raises():
    with pytest.raises(ValueError, match="temperature"):
        WSLD(temperature=0)
