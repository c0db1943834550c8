"""CTKD against NumPy in float64, and its temperature, which works against the student."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import CTKD, ctkd_loss
from tests.support.networks import compiled, convolutional, examples
from tests.support.reference import Case, log_softmax, random

SPECS = {"logits": TapSpec("net", (None, 10))}


def reference(student, teacher, theta=1.0, start=1.0, end=20.0):
    temperature = start + end / (1 + math.exp(-theta))
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1)


def case(name, scale=1.0, **settings):
    loss, expected = functools.partial(ctkd_loss, **settings), functools.partial(reference, **settings)
    return Case(name, loss, expected, random(16, 10, seed=1, scale=scale), (random(16, 10, seed=2, scale=scale),))


CASES = [
    case("CIFAR-100, at the start"),
    case("a lower temperature", scale=5.0, theta=-2.0),
    case("other ends", scale=130.0, theta=0.5, start=2.0, end=4.0),
]


def theta_gradient(method, epoch):
    student, teacher = (Outputs({"logits": random(16, 10, seed=seed, scale=8.0)}) for seed in (1, 2))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(method.call(student, teacher, Batch(None), Step(0, tf.constant(epoch))))
    return float(loss), float(tape.gradient(loss, method.theta.value))


@pytest.mark.parametrize("epoch, progress", [(0, 0.1), (4, 0.5), (8, 0.9), (9, 1.0), (100, 1.0)])
def test_the_gradient_of_the_temperature_is_reversed_gradually(epoch, progress):
    method = CTKD()
    method.bind(SPECS, SPECS)
    student, teacher = (random(16, 10, seed=seed, scale=8.0).astype("float64") for seed in (1, 2))
    above, below = (reference(student, teacher, theta=1 + step).mean() for step in (1e-5, -1e-5))
    loss, gradient = theta_gradient(method, epoch)
    assert loss == pytest.approx(reference(student, teacher).mean(), rel=1e-5)
    assert gradient == pytest.approx((math.cos(math.pi * progress) - 1) / 2 * (above - below) / 2e-5, rel=1e-3)


def test_without_a_ramp_it_is_reversed_from_the_start():
    with_ramp, without = CTKD(), CTKD(ramp_epochs=0)
    for method in (with_ramp, without):
        method.bind(SPECS, SPECS)
    assert theta_gradient(without, 0) == pytest.approx(theta_gradient(with_ramp, 9), rel=1e-5)


def test_theta_is_trained_towards_a_larger_loss():
    method = CTKD(ramp_epochs=0, weight=1.0)
    student, teacher = convolutional(), convolutional(6, kernel_initializer="random_normal")
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[method]))
    assert [tuple(v.shape) for v in method.trainable_variables] == [()] and float(method.theta) == 1.0
    x, y = examples()
    z_s, z_t = (np.array(net(x), "float64") for net in (student, teacher))
    uphill = np.sign(reference(z_s, z_t, theta=1.001).mean() - reference(z_s, z_t, theta=0.999).mean())
    distiller.fit(x, y, batch_size=32, verbose=0)
    assert np.sign(float(method.theta) - 1.0) == uphill != 0
    assert len(student.trainable_variables) + 1 == len(distiller.trainable_variables)


@pytest.mark.parametrize(
    "arguments, error",
    [({"start": 0}, ValueError), ({"end": 0}, ValueError), ({"ramp_epochs": -1}, ValueError), ({"end": ""}, TypeError)],
)
def test_invalid_arguments_raise(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        CTKD(**arguments)
