"""CWD against NumPy in float64."""

import functools

import numpy as np
import pytest

from kd_keras.contracts import TapSpec
from kd_keras.methods import CWD, cwd_loss
from tests.support.reference import Case, log_softmax, random, resized


def reference(student, teacher, temperature=1.0):
    """An example and a channel at a time."""
    total = np.zeros(len(student[0]))
    for s, t in zip(student, teacher, strict=True):
        s = resized(s, t.shape[1:3])
        for i in range(len(s)):
            divergences = []
            for c in range(s.shape[-1]):
                log_student, log_teacher = (log_softmax(x[i, :, :, c].ravel() / temperature) for x in (s, t))
                divergences.append(temperature**2 * (np.exp(log_teacher) * (log_teacher - log_student)).sum())
            total[i] += np.mean(divergences)
    return total


CASES = [
    Case("the published setting", cwd_loss, reference, [random(4, 4, 6, 5, seed=0)], ([random(4, 4, 6, 5, seed=1)],)),
    Case(
        "temperature 4, two maps, other sizes",
        functools.partial(cwd_loss, temperature=4.0),
        functools.partial(reference, temperature=4.0),
        [random(4, 3, 6, 2, seed=2), random(4, 8, 5, 3, seed=3)],
        ([random(4, 6, 7, 2, seed=4), random(4, 4, 4, 3, seed=5)],),
    ),
]


def test_the_loss_is_zero_if_channels_differ_by_a_constant():
    maps = random(3, 4, 4, 2)
    np.testing.assert_allclose(cwd_loss(maps + np.array([3, -2], "float32"), maps), np.zeros(3), atol=1e-6)


def bound(student, teacher):
    method = CWD()
    method.bind({"stages[-1]": TapSpec("s", (None, *student))}, {"stages[-1]": TapSpec("t", (None, *teacher))})
    return method


def test_there_is_a_convolution_only_if_widths_differ():
    assert bound((4, 4, 3), (8, 8, 3)).variables == []
    (kernel,) = bound((4, 4, 3), (8, 8, 5)).trainable_variables
    assert tuple(kernel.shape) == (1, 1, 3, 5)


def test_equal_free_sizes_are_allowed():
    """A segmentation network of any size of image."""
    assert bound((None, None, 3), (None, None, 3)).variables == []


def test_networks_that_do_not_fit_raise():
    with pytest.raises(ValueError, match=r"(?s)maps \(B, H, W, C\).*stages"):
        bound((8,), (8,))
    with pytest.raises(ValueError, match="temperature"):
        CWD(temperature=0)
