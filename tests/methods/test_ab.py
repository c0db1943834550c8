"""AB against NumPy in float64, its layers' weights and its two stages."""

import functools

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.methods import AB, ab_loss
from tests.support.networks import compiled, convolutional, examples, same, values
from tests.support.reference import Case, random


def reference(student, teacher, margin=1.0):
    """The two cases of the definition, neuron by neuron."""
    losses = np.zeros(len(student[0]))
    for layer, (student_map, teacher_map) in enumerate(zip(student, teacher, strict=True)):
        weight = 0.5 ** (len(student) - 1 - layer) * 3 / 1000
        for place in np.ndindex(student_map.shape):
            s, t = student_map[place], teacher_map[place]
            if t <= 0 and s > -margin:
                losses[place[0]] += weight * (s + margin) ** 2
            if t > 0 and s <= margin:
                losses[place[0]] += weight * (s - margin) ** 2
    return losses


def maps(seed, *shapes):
    return [random(*shape, seed=seed + i) for i, shape in enumerate(shapes)]


SHAPES = (5, 4, 3, 2), (5, 2, 2, 7), (5, 2, 2, 3)
CASES = [Case(f"{n} maps", ab_loss, reference, maps(0, *SHAPES[:n]), (maps(10, *SHAPES[:n]),)) for n in (1, 3)]
CASES += [
    Case(
        "another margin",
        functools.partial(ab_loss, margin=0.3),
        functools.partial(reference, margin=0.3),
        maps(0, *SHAPES),
        (maps(10, *SHAPES),),
    )
]


def test_the_last_map_has_weight_one_and_earlier_maps_half_the_next():
    zeros, ones = np.zeros((2, 2, 2, 1), "float32"), np.ones((2, 2, 2, 1), "float32")  # 4 neurons, each 1 off
    np.testing.assert_allclose(ab_loss(zeros, ones), [0.012, 0.012], rtol=1e-6)
    np.testing.assert_allclose(ab_loss([zeros] * 3, [ones] * 3), [0.021, 0.021], rtol=1e-6)  # 1 + 1/2 + 1/4


def test_the_loss_is_zero_beyond_the_margin_on_the_correct_side():
    teacher = random(3, 2, 2, 4, seed=0)
    assert np.all(np.asarray(ab_loss(1.5 * np.sign(teacher), teacher)) == 0)
    assert np.all(np.asarray(ab_loss(0.5 * np.sign(teacher), teacher)) > 0)
    assert np.all(np.asarray(ab_loss(-0 * teacher - 1, 0 * teacher)) == 0)  # a teacher's zero is off


def test_the_connectors_have_no_activation_and_train():
    method = AB()
    distiller = compiled(Distiller(student=convolutional(4), teacher=convolutional(6), methods=[method]))
    assert [tuple(c.output_shape) for c in method.connectors] == [(None, 8, 8, 6), (None, 4, 4, 12)]
    assert np.min(method.connectors[0](random(2, 8, 8, 4, seed=1))) < 0
    before = values(method.trainable_variables)
    distiller.fit(*examples(), verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, values(method.trainable_variables), strict=True))


def test_training_in_two_stages():
    """In the first stage the classifier is constant, in the second stage the connectors are."""
    method, student = AB(weight={0: 1.0, 2: 0.0}), convolutional(4)
    distiller = Distiller(student=student, teacher=convolutional(6), methods=[method], hard_weight={0: 0.0, 2: 1.0})
    compiled(distiller, optimizer="sgd")
    classifier, connectors = student.get_layer("logits").variables, method.trainable_variables
    before = values(classifier), values(connectors)
    distiller.fit(*examples(), epochs=2, verbose=0)
    between = values(classifier), values(connectors)
    distiller.fit(*examples(), initial_epoch=2, epochs=4, verbose=0)
    assert same(before[0], between[0]) and not same(before[1], between[1])
    assert not same(between[0], values(classifier)) and same(between[1], values(connectors))


@pytest.mark.parametrize("margin, error", [(0, ValueError), (-1.0, ValueError), ("wide", TypeError)])
def test_an_invalid_margin_raises(margin, error):
    with pytest.raises(error, match="margin"):
        AB(margin=margin)
