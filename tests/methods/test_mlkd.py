"""MLKD against NumPy in float64, entry by entry of its matrices."""

import functools

import numpy as np
import pytest

from kd_keras.methods import MLKD, kd_loss, mlkd_loss
from tests.support.reference import Case, log_softmax, random


def squares(rows_s, rows_t):
    """The sum over pairs of rows of the squared difference of their products, divided by the number of rows."""
    total = sum(
        (a @ b - c @ d) ** 2 for a, c in zip(rows_s, rows_t, strict=True) for b, d in zip(rows_s, rows_t, strict=True)
    )
    return total / len(rows_s)


def reference(student, teacher, temperatures=(4.0, 3.0, 5.0, 2.0, 6.0)):
    total = 0.0
    for temperature in temperatures:
        log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
        p_s, p_t = np.exp(log_s), np.exp(log_t)
        total += temperature**2 * (p_t * (log_t - log_s)).sum(-1).mean()
        total += squares(p_s.T, p_t.T) + squares(p_s, p_t)
    return np.array(total)


def case(name, scale=1.0, examples=6, classes=10, **settings):
    loss, expected = functools.partial(mlkd_loss, **settings), functools.partial(reference, **settings)
    student, teacher = (random(examples, classes, seed=seed, scale=scale) for seed in (1, 2))
    return Case(name, loss, expected, student, (teacher,))


CASES = [
    case("CIFAR-100"),
    case("more examples than classes, one temperature", scale=6.0, examples=12, classes=4, temperatures=(1.0,)),
    case("logits to 400", scale=130.0),
]


def test_the_class_and_batch_terms_by_hand():
    """Two examples, two classes, all probabilities 0 or 1: the student has (1, 0) twice, the teacher one of each."""
    student, teacher = np.array([[99.0, 0.0], [99.0, 0.0]]), np.array([[99.0, 0.0], [0.0, 99.0]])
    # S'S = [[2, 0], [0, 0]], T'T = I: 1 + 1 over 2 classes. SS' = all ones, TT' = I: 1 + 1 over 2 examples.
    instance = np.mean(kd_loss(student, teacher, temperature=1.0))
    assert float(mlkd_loss(student, teacher, temperatures=(1.0,))) - instance == pytest.approx(2.0, rel=1e-5)


def test_the_loss_is_zero_at_the_teacher():
    logits = random(8, 10, scale=4.0)
    assert float(mlkd_loss(logits, logits)) == 0.0


def test_small_differences_keep_their_digits():
    """Matrices that nearly agree are not subtracted: with them it would be wrong in the third digit."""
    teacher = random(16, 10, seed=2)
    student = (teacher + random(16, 10, seed=1, scale=1e-3)).astype("float32")
    expected = reference(student.astype("float64"), teacher.astype("float64"), temperatures=(1.0,))
    assert float(mlkd_loss(student, teacher, temperatures=(1.0,))) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize(
    "temperatures, error", [((), ValueError), (4.0, ValueError), ((4.0, 0.0), ValueError), (("hot",), TypeError)]
)
def test_invalid_temperatures_raise(temperatures, error):
    with pytest.raises(error, match="temperatures"):
        MLKD(temperatures=temperatures)


def test_the_class_and_batch_terms_weigh_a_quarter_of_the_instance_term_in_the_method():
    student, teacher = random(6, 10, seed=5), random(6, 10, seed=6)
    whole, instance = (mlkd_loss(student, teacher, relation_weight=weight) for weight in (1.0, 0.0))
    loss = MLKD()({"logits": student}, {"logits": teacher}, None, None)
    np.testing.assert_allclose(loss, instance + 0.25 * (whole - instance), rtol=1e-5)
    with pytest.raises(ValueError, match="relation_weight"):
        MLKD(relation_weight=-1)
