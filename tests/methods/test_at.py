"""AT against NumPy in float64."""

import functools

import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.methods import AT, at_loss
from tests.support.networks import convolutional
from tests.support.reference import Case, pooled, random, unit


def reference(student, teacher, power=2.0):
    """An example and a pair at a time: attention, position by position, and the mean of its squared differences."""
    total = np.zeros(len(student[0]))
    for s, t in zip(student, teacher, strict=True):
        size = min(s.shape[1], t.shape[1]), min(s.shape[2], t.shape[2])
        s, t = pooled(s, size), pooled(t, size)
        for i in range(len(s)):
            student_attention, teacher_attention = (
                np.array([(np.abs(p) ** power).mean() for row in x[i] for p in row]) for x in (s, t)
            )
            total[i] += ((unit(student_attention) - unit(teacher_attention)) ** 2).mean()
    return total


CASES = [
    Case(
        "three stages, other widths and sizes",
        at_loss,
        reference,
        [random(4, 8, 8, 3, seed=0), random(4, 4, 6, 5, seed=1), random(4, 3, 2, 7, seed=2)],
        ([random(4, 5, 8, 6, seed=3), random(4, 6, 4, 5, seed=4), random(4, 3, 2, 7, seed=5)],),
    ),
    Case(
        "power 3",
        functools.partial(at_loss, power=3.0),
        functools.partial(reference, power=3.0),
        [random(4, 4, 4, 3, seed=6)],
        ([random(4, 4, 4, 6, seed=7)],),
    ),
]


def test_the_loss_is_zero_for_maps_equal_up_to_scale_and_width():
    maps = random(3, 4, 4, 2)
    np.testing.assert_allclose(at_loss(maps, np.concatenate([-5 * maps, 5 * maps], -1)), np.zeros(3), atol=1e-12)


def test_pairs_are_summed_and_a_single_map_needs_no_list():
    s, t = random(3, 4, 4, 2), random(3, 4, 4, 5, seed=1)
    np.testing.assert_allclose(at_loss([s, s], [t, t]), 2 * np.array(at_loss(s, t)), rtol=1e-6)
    with pytest.raises(ValueError):
        at_loss([s], [t, t])


@pytest.mark.parametrize("power, error", [(0.5, ValueError), (-2, ValueError), ("two", TypeError)])
def test_an_invalid_power_raises(power, error):
    with pytest.raises(error, match="power"):
        AT(power=power)


def test_taps_that_are_not_maps_raise():
    method = AT(student_tap="logits", teacher_tap="logits")
    with pytest.raises(ValueError, match=r"(?s)maps \(B, H, W, C\).*stages\[1\]"):
        Distiller(student=convolutional(), teacher=convolutional(), methods=[method])
