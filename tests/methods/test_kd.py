"""KD against NumPy in float64: value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras.methods import KD, kd_loss
from tests.networks import CLASSES, convolutional

pytestmark = pytest.mark.filterwarnings("ignore")


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def reference(student, teacher, temperature):
    """T^2 KL(p_t || p_s) by its definition, and its gradient T (p_s - p_t) to the student's logits, in float64."""
    student, teacher = student.astype("float64") / temperature, teacher.astype("float64") / temperature
    divergence = (softmax(teacher) * (log_softmax(teacher) - log_softmax(student))).sum(-1)
    return temperature**2 * divergence, temperature * (softmax(student) - softmax(teacher))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("scale", [1.0, 10.0, 400.0])
def test_value_and_gradient(temperature, batch, scale):
    random = np.random.default_rng(7)
    student, teacher = (scale * random.uniform(-1, 1, (batch, 10)).astype("float32") for _ in range(2))
    variable = tf.Variable(student)
    with tf.GradientTape() as tape:
        loss = kd_loss(variable, teacher, temperature=temperature)
        total = tf.reduce_sum(loss)
    value, gradient = reference(student, teacher, temperature)
    assert loss.shape == (batch,) and loss.dtype == tf.float32
    np.testing.assert_allclose(loss, value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(total, variable), gradient, rtol=1e-5, atol=1e-5 * temperature)


def test_the_value_that_keras_gets_wrong():
    """The formula on raw logits, as `keras.distillation` applies it by default, is another number."""
    student, teacher = np.array([[1.0, 2.0, 3.0]], "float32"), np.array([[3.0, 1.0, 0.5]], "float32")
    # By hand: p_t = softmax(3/4, 1/4, 1/8), p_s = softmax(1/4, 2/4, 3/4); 16 sum p_t log(p_t / p_s).
    p_t, p_s = softmax(teacher / 4.0), softmax(student / 4.0)
    expected = 16 * sum(t * np.log(t / s) for t, s in zip(p_t[0], p_s[0]))
    assert float(kd_loss(student, teacher)[0]) == pytest.approx(expected, rel=1e-5)
    theirs = float(keras.distillation.LogitsDistillation().compute_loss(teacher, student))
    assert theirs != pytest.approx(expected, rel=0.1)


def test_zero_where_student_is_teacher_and_never_below():
    logits = np.random.default_rng(0).normal(size=(100, 7)).astype("float32")
    np.testing.assert_allclose(kd_loss(logits, logits), np.zeros(100), atol=1e-6)
    assert np.min(kd_loss(logits, logits[::-1].copy())) >= 0


@pytest.mark.parametrize(
    "temperature, error", [(0, ValueError), (-1, ValueError), ("hot", TypeError), (True, TypeError)]
)
def test_a_wrong_temperature(temperature, error):
    with pytest.raises(error, match="temperature"):
        KD(temperature=temperature)


def test_one_logit_has_nothing_to_teach():
    from kd_keras import Distiller

    with pytest.raises(ValueError, match="two or more classes"):
        Distiller(student=convolutional(classes=1), teacher=convolutional(classes=1), methods=[KD()])


def test_class_counts_that_differ():
    from kd_keras import Distiller

    with pytest.raises(ValueError, match=r"(?s)same classes.*\(None, 5\).*\(None, 7\).*class_order"):
        Distiller(student=convolutional(), teacher=convolutional(classes=CLASSES + 2), methods=[KD()])
