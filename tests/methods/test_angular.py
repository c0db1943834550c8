"""Angular against NumPy in float64, and the centers that it copies from the teacher."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller, models
from kd_keras.methods import Angular, angular_loss
from tests.support.networks import convolutional
from tests.support.reference import Case, random, unit


def reference(student, teacher, centers):
    result = []
    for s, t in zip(unit(student), unit(teacher), strict=True):
        cosines = [(w @ s, w @ t) for w in unit(centers, axis=0).T]
        angles = np.arccos(np.clip(cosines, -0.9999, 0.9999))
        result.append(np.mean((angles[:, 0] - angles[:, 1]) ** 2))
    return np.array(result)


def case(name, batch, width, classes):
    centers = random(width, classes, seed=3)
    student, teacher = random(batch, width, seed=1), random(batch, width, seed=2)
    loss, expected = (functools.partial(function, centers=centers) for function in (angular_loss, reference))
    return Case(name, loss, expected, student, (teacher,))


CASES = [case("angles", 5, 7, 4), case("one class", 3, 4, 1)]


def test_the_gradient_is_finite_at_a_center():
    centers = random(6, 3)
    at_a_center = Case("at a center", angular_loss, reference, centers.T.copy(), (random(3, 6, seed=1), centers))
    assert np.isfinite(at_a_center.gradients()).all()


@pytest.mark.parametrize("kind", ["recognizer", "linear"])
def test_the_centers_are_those_of_the_teachers_classifier(kind):
    keras.utils.set_random_seed(0)
    teacher = convolutional(6, name="teacher")
    expected = teacher.get_layer("logits").kernel
    if kind == "recognizer":
        network = keras.Model(teacher.input, teacher.get_layer("pool").output)
        teacher = models.recognizer(network, 9)
        expected = teacher.head.centers
    distiller = Distiller(student=convolutional(4), teacher=teacher, methods=[Angular()], hard_weight=0)
    np.testing.assert_array_equal(distiller.methods[0].centers, expected)
    assert distiller.methods[0].adapter.output_shape == (None, 12)  # of the teacher


def test_a_teacher_without_a_classifier_raises():
    network = convolutional(6, name="teacher")
    teacher = keras.Model(network.input, keras.layers.UnitNormalization()(network.get_layer("pool").output))
    with pytest.raises(ValueError, match="tap|class centers"):
        Distiller(student=convolutional(6), teacher=teacher, methods=[Angular()], hard_weight=0)
