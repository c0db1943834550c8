"""KD against NumPy in float64."""

import functools

import keras
import numpy as np
import pytest

from kd_keras.methods import KD, kd_loss
from tests.support.networks import CLASSES, convolutional
from tests.support.reference import Case, log_softmax, softmax

pytestmark = pytest.mark.filterwarnings("ignore")


def reference(student, teacher, temperature=4.0):
    """T^2 KL(p_t || p_s) by its definition."""
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1)


def at(temperature, scale, batch):
    """The loss and its reference at a temperature, on logits of a scale."""
    student, teacher = (scale * np.random.default_rng(s).uniform(-1, 1, (batch, 10)).astype("float32") for s in (1, 2))
    return Case(
        f"temperature {temperature:g}, logits to {scale:g}, batch {batch}",
        functools.partial(kd_loss, temperature=temperature),
        functools.partial(reference, temperature=temperature),
        student,
        (teacher,),
    )


CASES = [at(temperature, scale, 64) for temperature in (1.0, 4.0, 20.0) for scale in (1.0, 10.0, 400.0)]
CASES += [at(4.0, 1.0, 1)]


def test_the_value_that_keras_gets_wrong():
    """The formula on raw logits, as `keras.distillation` applies it by default, is another number."""
    student, teacher = np.array([[1.0, 2.0, 3.0]], "float32"), np.array([[3.0, 1.0, 0.5]], "float32")
    # By hand: p_t = softmax(3/4, 1/4, 1/8), p_s = softmax(1/4, 2/4, 3/4); 16 sum p_t log(p_t / p_s).
    p_t, p_s = softmax(teacher / 4.0), softmax(student / 4.0)
    expected = 16 * sum(t * np.log(t / s) for t, s in zip(p_t[0], p_s[0], strict=True))
    assert float(kd_loss(student, teacher)[0]) == pytest.approx(expected, rel=1e-5)
    if not hasattr(keras, "distillation"):
        pytest.skip("Keras has its own distillation since 3.11")
    keras_loss = float(keras.distillation.LogitsDistillation().compute_loss(teacher, student))
    assert keras_loss != pytest.approx(expected, rel=0.1)


def test_the_loss_is_zero_at_the_teacher_and_never_negative():
    logits = np.random.default_rng(0).normal(size=(100, 7)).astype("float32")
    np.testing.assert_allclose(kd_loss(logits, logits), np.zeros(100), atol=1e-6)
    assert np.min(kd_loss(logits, logits[::-1].copy())) >= 0


@pytest.mark.parametrize(
    "temperature, error", [(0, ValueError), (-1, ValueError), ("hot", TypeError), (True, TypeError)]
)
def test_an_invalid_temperature_raises(temperature, error):
    with pytest.raises(error, match="temperature"):
        KD(temperature=temperature)


def test_different_class_counts_raise():
    from kd_keras import Distiller

    with pytest.raises(ValueError, match=r"(?s)same classes.*\(None, 5\).*\(None, 7\).*class_order"):
        Distiller(student=convolutional(), teacher=convolutional(classes=CLASSES + 2), methods=[KD()])
