"""The plain losses against NumPy in float64, for inputs that are hard for float32."""

import functools

import numpy as np
import pytest

from kd_keras.methods import (
    Logits,
    jensen_shannon_loss,
    kd_loss,
    log_mse_loss,
    logits_loss,
    logits_mse_loss,
    reverse_kl_loss,
    soft_cross_entropy_loss,
)
from tests.support.reference import Case, log_softmax, random


def mse(student, teacher, temperature=1.0):
    return np.array(
        [np.mean([(s - t) ** 2 for s, t in zip(*pair, strict=True)]) for pair in zip(student, teacher, strict=True)]
    )


def soft_cross_entropy(student, teacher, temperature=1.0):
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * -(np.exp(log_t) * log_s).sum(-1)


def log_mse(student, teacher, temperature=1.0):
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * ((log_t - log_s) ** 2).mean(-1)


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def reverse_kl(student, teacher, temperature=1.0):
    return temperature**2 * kl(log_softmax(student / temperature), log_softmax(teacher / temperature))


def jensen_shannon(student, teacher, temperature=1.0):
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    middle = np.logaddexp(log_s, log_t) - np.log(2)
    return temperature**2 * (kl(log_s, middle) + kl(log_t, middle)) / 2


REFERENCES = {
    "mse": mse,
    "soft_cross_entropy": soft_cross_entropy,
    "log_mse": log_mse,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}


def case(form, temperature, scale):
    student, teacher = (scale * np.random.default_rng(s).uniform(-1, 1, (32, 10)).astype("float32") for s in (1, 2))
    return Case(
        f"{form}, temperature {temperature:g}, logits to {scale:g}",
        functools.partial(logits_loss, form=form, temperature=temperature),
        functools.partial(REFERENCES[form], temperature=temperature),
        student,
        (teacher,),
    )


CASES = [case("mse", 1.0, scale) for scale in (1.0, 400.0)]
for form in ("soft_cross_entropy", "log_mse", "reverse_kl", "jensen_shannon"):
    CASES += [case(form, temperature, scale) for temperature in (1.0, 20.0) for scale in (1.0, 10.0)]
    CASES += [case(form, 20.0, 400.0)]
CASES += [case(form, 1.0, 400.0) for form in ("soft_cross_entropy", "reverse_kl")]  # Jensen-Shannon is constant there


def test_the_form_is_chosen_by_name():
    student, teacher = random(4, 3, seed=1), random(4, 3, seed=2)
    np.testing.assert_array_equal(logits_loss(student, teacher), logits_mse_loss(student, teacher))
    np.testing.assert_array_equal(logits_loss(student, teacher, temperature=3.0), logits_mse_loss(student, teacher))
    soft = {"log_mse": log_mse_loss, "reverse_kl": reverse_kl_loss, "jensen_shannon": jensen_shannon_loss}
    for form, loss in (soft | {"soft_cross_entropy": soft_cross_entropy_loss}).items():
        loss_by_name = logits_loss(student, teacher, form=form, temperature=3.0)
        np.testing.assert_array_equal(loss_by_name, loss(student, teacher, temperature=3.0))
    with pytest.raises(ValueError, match="(?s)reverse.*Did you mean reverse_kl"):
        logits_loss(student, teacher, form="reverse")


def test_mathematical_properties():
    student, teacher = random(50, 7, seed=1, scale=3.0), random(50, 7, seed=2, scale=3.0)
    for loss in (logits_mse_loss, reverse_kl_loss, jensen_shannon_loss):
        np.testing.assert_allclose(loss(student, student), np.zeros(50), atol=1e-6)
        assert np.min(loss(student, teacher)) > 0
    np.testing.assert_allclose(jensen_shannon_loss(student, teacher), jensen_shannon_loss(teacher, student), rtol=1e-5)
    np.testing.assert_allclose(reverse_kl_loss(student, teacher), kd_loss(teacher, student, temperature=1.0), rtol=1e-5)
    assert np.max(jensen_shannon_loss(100 * student, 100 * teacher)) <= np.log(2) * (1 + 1e-6)
    entropy = soft_cross_entropy_loss(teacher, teacher)
    gap = soft_cross_entropy_loss(student, teacher) - entropy
    np.testing.assert_allclose(gap, kd_loss(student, teacher, temperature=1.0), rtol=1e-4)


def test_the_plain_sum_is_less_accurate():
    """Near the teacher the two halves of the usual formula nearly cancel in float32."""
    student, teacher = (np.random.default_rng(s).uniform(-1, 1, (256, 10)).astype("float32") for s in (1, 2))
    expected = jensen_shannon(student.astype("float64"), teacher.astype("float64"), 20.0)
    log_s, log_t = log_softmax(student / np.float32(20)), log_softmax(teacher / np.float32(20))
    middle = np.log((np.exp(log_s) + np.exp(log_t)) / 2)
    plain = 400 * (kl(log_s, middle) + kl(log_t, middle)) / 2
    assert plain.dtype == np.float32
    computed = jensen_shannon_loss(student, teacher, temperature=20.0)
    errors = [np.abs(np.array(values) / expected - 1).max() for values in (plain, computed)]
    assert errors[0] > 1e-4 and errors[1] < 2e-5


def test_jensen_shannon_of_far_logits():
    flat = case("jensen_shannon", 1.0, 400.0)
    assert flat.value_error() < 1e-6 and np.abs(flat.gradients()[0]).max() < 1e-8


def test_jensen_shannon_is_accurate_at_the_switch_of_its_two_forms():
    """Two classes, whose log ratios sweep from near 0 through 1 and far past it."""
    gap = np.geomspace(0.01, 40.0, 400, dtype="float32")
    student, teacher = np.stack([gap, 0 * gap], -1), np.zeros((400, 2), "float32")
    expected = jensen_shannon(student.astype("float64"), teacher.astype("float64"))
    np.testing.assert_allclose(jensen_shannon_loss(student, teacher), expected, rtol=3e-5)


@pytest.mark.parametrize(
    "arguments, error", [({"form": "kl"}, ValueError), ({"form": None}, ValueError), ({"temperature": 0}, ValueError)]
)
def test_invalid_arguments_raise(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        Logits(**arguments)
