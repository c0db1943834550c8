"""PKD against NumPy in float64."""

import numpy as np
import pytest

from kd_keras.contracts import TapSpec
from kd_keras.methods import PKD, pkd_loss
from tests.support.reference import Case, random, resized


def normalized(channel):
    return (channel - channel.mean()) / (channel.std(ddof=1) + 1e-6)


def reference(student, teacher):
    """A channel at a time."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        s = resized(s, t.shape[1:3])
        squares = [(normalized(s[..., c]) - normalized(t[..., c])) ** 2 for c in range(t.shape[-1])]
        total += np.mean(squares) / 2
    return np.array(total)


CASES = [
    Case("one level", pkd_loss, reference, [random(4, 4, 6, 5, seed=0)], ([3 + 2 * random(4, 4, 6, 5, seed=1)],)),
    Case(
        "three levels, other sizes, far from zero",
        pkd_loss,
        reference,
        [5 + random(4, 3, 6, 2, seed=2), random(4, 8, 5, 3, seed=3), random(4, 2, 2, 4, seed=4)],
        ([5 + random(4, 6, 7, 2, seed=5), random(4, 4, 4, 3, seed=6), random(4, 2, 2, 4, seed=7)],),
    ),
]


def test_the_loss_is_one_minus_the_correlation():
    s, t = random(5, 4, 4, 1), random(5, 4, 4, 1, seed=1)
    correlation = np.corrcoef(s.ravel(), t.ravel())[0, 1]
    assert float(pkd_loss(s, t)) == pytest.approx((1 - correlation) * (1 - 1 / s.size), rel=1e-5)  # N - 1 over N


def test_scale_and_offset_do_not_matter():
    maps = random(3, 4, 4, 2)
    assert float(pkd_loss(100 * maps - 7, maps)) == pytest.approx(0, abs=1e-10)


def test_a_constant_channel_is_zero_and_has_no_gradient():
    """Its float32 mean is not exactly itself; divided by the standard deviation that would be noise of size 1."""
    maps, teacher = random(3, 5, 7, 2), random(3, 5, 7, 2, seed=1)
    maps[..., 1] = 0.1234567
    expected = float(reference([maps.astype("float64")], [teacher.astype("float64")]))
    assert float(pkd_loss(maps, teacher)) == pytest.approx(expected, rel=1e-5)
    (gradient,) = CASES[0].gradients([maps], ([teacher],))
    assert np.abs(gradient[..., 0]).max() > 0 and np.abs(gradient[..., 1]).max() == 0


def test_the_loss_is_accurate_for_many_positions():
    """Adding 32768 positions one by one, as TensorFlow does over the first axes, would cost the fifth digit."""
    student, teacher = (np.maximum(random(16, 32, 64, 8, seed=s), 0) for s in (0, 1))
    expected = float(reference([student.astype("float64")], [teacher.astype("float64")]))
    assert float(pkd_loss(student, teacher)) == pytest.approx(expected, rel=2e-6)


def bound(student, teacher):
    method = PKD()
    specs = [{"stages": [TapSpec(name, (None, *shape))]} for name, shape in (("s", student), ("t", teacher))]
    method.bind(*specs)
    return method


def test_there_is_a_convolution_only_if_widths_differ():
    assert bound((4, 4, 3), (8, 8, 3)).variables == []
    (kernel,) = bound((4, 4, 3), (8, 8, 5)).trainable_variables
    assert tuple(kernel.shape) == (1, 1, 3, 5)


def test_networks_that_do_not_fit_raise():
    with pytest.raises(ValueError, match=r"(?s)maps \(B, H, W, C\).*stages"):
        bound((8,), (8,))
