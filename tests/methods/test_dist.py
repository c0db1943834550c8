"""DIST against NumPy in float64, correlation by correlation."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.methods import DIST, dist_loss
from tests.support.reference import Case, random, softmax


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (np.sqrt((a**2).sum()) * np.sqrt((b**2).sum()) + 1e-8)


def reference(student, teacher, beta=1.0, gamma=1.0, temperature=1.0):
    y_s, y_t = softmax(student / temperature), softmax(teacher / temperature)
    inter = 1 - np.mean([pearson(y_s[i], y_t[i]) for i in range(len(y_s))])
    intra = 1 - np.mean([pearson(y_s[:, j], y_t[:, j]) for j in range(y_s.shape[1])])
    return beta * inter + gamma * intra


def case(name, classes=10, scale=1.0, near=0.0, **settings):
    teacher = random(12, classes, seed=2, scale=scale)
    student = near * teacher + random(12, classes, seed=1, scale=scale * (1 - near))
    loss, expected = functools.partial(dist_loss, **settings), functools.partial(reference, **settings)
    return Case(name, loss, expected, student.astype("float32"), (teacher,))


CASES = [
    case("ImageNet recipe"),
    case("a hundred classes", classes=100, scale=4.0),
    case("near the teacher", near=0.9, scale=2.0),
    case("temperature 4, unequal weights", beta=2.0, gamma=0.5, temperature=4.0, scale=4.0),
    case("unlikely classes, for which 1e-8 matters", classes=100, scale=12.0),
]


def test_correlations_equal_those_of_numpy():
    """If 1e-8 is small compared to the norms, they equal those of `np.corrcoef`."""
    student, teacher = random(30, 4, seed=1, scale=2.0), random(30, 4, seed=2, scale=2.0)
    y_s, y_t = softmax(student), softmax(teacher)
    inter, intra = (
        1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ab, strict=True)]) for ab in ((y_s, y_t), (y_s.T, y_t.T))
    )
    assert float(dist_loss(student, teacher, gamma=0.0)) == pytest.approx(inter, rel=1e-5)
    assert float(dist_loss(student, teacher, beta=0.0)) == pytest.approx(intra, rel=1e-5)


def test_the_loss_is_zero_at_the_teacher_and_has_no_squared_temperature():
    logits = random(16, 10, scale=3.0)
    assert 0 <= float(dist_loss(logits, logits)) < 1e-5
    assert float(dist_loss(logits, logits[::-1].copy(), temperature=4.0)) < 4  # 2 (beta + gamma) bounds it


def test_positions_count_as_examples():
    student, teacher = random(2, 3, 4, 5, seed=1), random(2, 3, 4, 5, seed=2)
    flat = (x.reshape(24, 5) for x in (student, teacher))
    assert float(dist_loss(student, teacher)) == float(dist_loss(*flat))


def test_a_batch_of_one_has_no_part_over_examples():
    case = Case("", functools.partial(dist_loss, beta=0.0), None, random(1, 10, seed=1), (random(1, 10, seed=2),))
    assert float(case.loss(case.student, *case.others)) == 1.0
    np.testing.assert_array_equal(case.gradients()[0], np.zeros((1, 10)))


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="temperature"):
        DIST(temperature=0)
    with pytest.raises(TypeError, match="gamma"):
        DIST(gamma=None)
    assert DIST().across_replicas is False and DIST(across_replicas=True).get_config()["across_replicas"] is True


def test_logits_of_many_positions_are_an_explicit_choice():
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 1)])
    images, masks = np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4), "int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train(method):
        distiller = Distiller(student=keras.models.clone_model(network), teacher=network, methods=[method])
        distiller.compile(loss=loss)
        return distiller.train_on_batch(images, masks, return_dict=True)

    with pytest.raises(ValueError, match=r"logits \(B, K\).*needs one prediction.*DIST\(positions=True\)"):
        train(DIST())
    assert np.isfinite(train(DIST(positions=True))["dist"])
