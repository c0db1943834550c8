"""NST against NumPy in float64, in both of its forms."""

import numpy as np
import pytest

from kd_keras.methods import nst_loss
from kd_keras.methods.nst import _mean_kernel, _patterns
from tests.support.reference import Case, pooled, random, unit


def kernel(student, teacher):
    """The mean over pairs of channels of (a . b)^2."""
    return np.mean([[np.sum(a * b) ** 2 for b in teacher.T] for a in student.T])


def reference(student, teacher):
    """An example and a pair at a time, channel by channel."""
    total = np.zeros(len(student[0]))
    for s, t in zip(student, teacher, strict=True):
        size = min(s.shape[1], t.shape[1]), min(s.shape[2], t.shape[2])
        s, t = (unit(pooled(x, size).reshape(len(x), -1, x.shape[-1]), axis=1) for x in (s, t))
        total += [kernel(b, b) + kernel(a, a) - 2 * kernel(a, b) for a, b in zip(s, t, strict=True)]
    return total


CASES = [
    Case(
        "more positions than channels, other widths and sizes",
        nst_loss,
        reference,
        [random(3, 8, 8, 3, seed=0), random(3, 4, 6, 5, seed=1)],
        ([random(3, 5, 8, 6, seed=2), random(3, 6, 4, 5, seed=3)],),
    ),
    Case(
        "more channels than positions",
        nst_loss,
        reference,
        [random(3, 2, 3, 8, seed=4)],
        ([random(3, 2, 2, 12, seed=5)],),
    ),
    Case("after a ReLU", nst_loss, reference, [abs(random(3, 4, 4, 8, seed=6))], ([abs(random(3, 4, 4, 4, seed=7))],)),
]


def test_both_forms_agree():
    s, t = random(3, 2, 3, 7), random(3, 2, 3, 9, seed=1)
    loss = nst_loss(s, t)  # six positions: through (P, P)
    s, t = _patterns(s), _patterns(t)
    np.testing.assert_allclose(loss, _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(s, t), rtol=1e-5)


@pytest.mark.parametrize("size", [2, 6])
def test_the_loss_is_zero_for_permuted_patterns(size):
    maps = random(3, size, size, 8)
    np.testing.assert_allclose(nst_loss(maps, 3 * maps[..., ::-1]), np.zeros(3), atol=1e-6)


def test_the_constant_of_the_teacher_is_part_of_the_value():
    """Two channels of the teacher at one position against one of the student at another: k(t, t) = 1, k(s, s) = 1."""
    student, teacher = np.zeros((1, 1, 2, 1), "float32"), np.zeros((1, 1, 2, 2), "float32")
    student[0, 0, 0], teacher[0, 0, 1] = 1, 1
    np.testing.assert_allclose(nst_loss(student, teacher), [2.0])
