"""PKT against NumPy in float64."""

import numpy as np
import pytest

from kd_keras.methods import pkt_loss
from tests.support.reference import Case, random


def neighbor_probabilities(x):
    x = x.reshape(len(x), -1)
    x = np.array([row / (np.sqrt((row**2).sum()) + 1e-7) for row in x])
    p = np.array([[(a @ b + 1) / 2 for b in x] for a in x])
    return np.array([row / row.sum() for row in p])


def reference(student, teacher):
    """The mean over all pairs, by its definition."""
    p_s, p_t = neighbor_probabilities(student), neighbor_probabilities(teacher)
    return np.mean(p_t * np.log((p_t + 1e-7) / (p_s + 1e-7)))


CASES = [
    Case("other widths", pkt_loss, reference, random(16, 5, seed=0), (random(16, 9, seed=1),)),
    Case("after a ReLU, batch 64", pkt_loss, reference, abs(random(64, 8, seed=2)), (abs(random(64, 12, seed=3)),)),
    Case("opposite vectors", pkt_loss, reference, random(9, 2, seed=4), (random(9, 1, seed=5),)),
]


def test_the_plain_sum_is_less_accurate():
    """If student and teacher nearly agree, as late in training, the definition in float32 is wrong in its first
    digits."""
    teacher = abs(random(64, 64))
    student = teacher + random(64, 64, seed=1, scale=0.05)
    expected = reference(student.astype("float64"), teacher.astype("float64"))
    p_s, p_t = (neighbor_probabilities(x).astype("float32") for x in (student, teacher))
    plain = np.mean(p_t * np.log((p_t + np.float32(1e-7)) / (p_s + np.float32(1e-7))))
    assert float(pkt_loss(student, teacher)) == pytest.approx(expected, rel=1e-3)
    assert abs(plain / expected - 1) > 10 * abs(float(pkt_loss(student, teacher)) / expected - 1)


def test_the_loss_is_zero_for_equal_directions_and_never_negative():
    x = random(8, 5)
    assert float(pkt_loss(x * np.arange(1, 9, dtype="float32")[:, None], x)) == pytest.approx(0, abs=1e-10)
    assert float(pkt_loss(x[:1], x[1:2])) == 0
    assert all(float(pkt_loss(random(8, 5, seed=s), x)) > 0 for s in range(1, 20))


def test_an_embedding_of_zeros_is_equally_near_to_all():
    x, teacher = random(4, 3), random(4, 3, seed=1)
    x[1] = 0
    expected = reference(x.astype("float64"), teacher.astype("float64"))
    assert float(pkt_loss(x, teacher)) == pytest.approx(expected, rel=1e-5)
