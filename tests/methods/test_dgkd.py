"""DGKD against NumPy in float64, and the teachers that it drops."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller, Teacher
from kd_keras.contracts import Batch, Outputs, Step
from kd_keras.methods import DGKD, dgkd_loss
from tests.support.networks import compiled, convolutional, examples
from tests.support.reference import Case, log_softmax, random


def reference(student, teacher, kept=None, temperature=4.0):
    kept = [1] * len(teacher) if kept is None else kept
    log_s, total = log_softmax(student / temperature), 0.0
    for is_kept, logits in zip(kept, teacher, strict=True):
        log_t = log_softmax(logits / temperature)
        total = total + is_kept * temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1)
    return total / sum(kept)


def case(name, scale=1.0, count=3, **settings):
    loss, expected = functools.partial(dgkd_loss, **settings), functools.partial(reference, **settings)
    teachers = [random(16, 10, seed=seed, scale=scale) for seed in range(2, 2 + count)]
    return Case(name, loss, expected, random(16, 10, seed=1, scale=scale), (teachers,))


CASES = [
    case("three teachers"),
    case("one dropped", scale=5.0, kept=(1, 0, 1), temperature=2.0),
    case("a single teacher", scale=100.0, count=1, temperature=1.0),
]


def test_each_teacher_is_dropped_with_the_probability_and_one_is_always_kept():
    method = DGKD(drop=0.4)
    kept = np.array([method.kept_teachers(3, Step(number, 0)) for number in range(2000)])
    assert set(np.unique(kept)) == {0.0, 1.0} and kept.sum(1).min() == 1
    # With probability 0.4^3 all would be dropped; then each of the three is kept once in three times.
    np.testing.assert_allclose(kept.mean(0), 0.6 + 0.4**3 / 3, atol=0.035)
    again = np.array([DGKD(drop=0.4).kept_teachers(3, Step(number, 0)) for number in range(100)])
    assert np.array_equal(kept[:100], again)
    assert not np.array_equal(kept[:100], [DGKD(drop=0.4, seed=1).kept_teachers(3, Step(n, 0)) for n in range(100)])


def test_the_loss_is_of_the_teachers_kept_in_the_step():
    method, student = DGKD(drop=0.5, temperature=2.0), random(4, 10, seed=1)
    members = [Outputs({"logits": random(4, 10, seed=seed)}) for seed in (2, 3)]
    teacher = Outputs({"logits": random(4, 10, seed=9)}, members=members)
    for number in range(6):
        kept = np.array(method.kept_teachers(2, Step(number, 0)))
        loss = method.call(Outputs({"logits": student}), teacher, Batch(None), Step(number, 0))
        expected = reference(student.astype("float64"), [m["logits"].astype("float64") for m in members], kept, 2.0)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_student_follows_several_teachers():
    teachers = [convolutional(6, name="teacher"), convolutional(5, name="assistant")]
    distiller = Distiller(student=convolutional(), teacher=Teacher(teachers), methods=[DGKD()], hard_weight=0)
    losses = compiled(distiller, optimizer=keras.optimizers.Adam(0.01)).fit(examples()[0], epochs=20, verbose=0)
    assert losses.history["dgkd"][-1] < losses.history["dgkd"][0]


@pytest.mark.parametrize("arguments", [{"temperature": 0}, {"drop": 1.0}, {"drop": -0.1}, {"seed": -1}])
def test_invalid_arguments_raise(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        DGKD(**arguments)
