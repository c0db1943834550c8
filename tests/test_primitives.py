"""The shared maths against NumPy in float64, for inputs that are hard for float32."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras.primitives import average_pool_to, softened_kl
from tests.support.reference import log_softmax, pooled, softmax


def reference(student, teacher, temperature):
    student, teacher = student.astype("float64") / temperature, teacher.astype("float64") / temperature
    return (softmax(teacher) * (log_softmax(teacher) - log_softmax(student))).sum(-1)


@pytest.mark.parametrize("difference", [1e-3, 1e-2, 1.0, 100.0, 800.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_softened_kl_of_small_and_large_differences(difference, classes):
    random = np.random.default_rng(classes)
    teacher = random.uniform(-difference, difference, (16, classes)).astype("float32")
    student = teacher + (difference * random.normal(size=teacher.shape)).astype("float32")
    np.testing.assert_allclose(softened_kl(student, teacher), reference(student, teacher, 1.0), rtol=1e-4, atol=1e-9)


def test_softened_kl_is_more_accurate_than_the_plain_sum():
    """At temperature 20 the plain sum in float32 has relative errors above 1e-4, and softened_kl below 2e-5."""
    random = np.random.default_rng(0)
    student, teacher = (random.uniform(-1, 1, (256, 10)).astype("float32") for _ in range(2))
    expected = reference(student, teacher, 20.0)
    log_s, log_t = tf.nn.log_softmax(student / 20), tf.nn.log_softmax(teacher / 20)
    plain = tf.reduce_sum(tf.exp(log_t) * (log_t - log_s), -1)
    actual = (plain, softened_kl(student, teacher, 20.0))
    errors = [np.abs(np.array(values) / expected - 1).max() for values in actual]
    assert errors[0] > 1e-4 and errors[1] < 2e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_softened_kl_computes_in_float32(dtype):
    loss = softened_kl(tf.constant([[1.0, 2.0]], dtype), tf.constant([[2.0, 1.0]], dtype))
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, reference(np.array([[1.0, 2.0]]), np.array([[2.0, 1.0]]), 1.0), rtol=1e-6)


@pytest.mark.parametrize("size", [(4, 3), (2, 2), (8, 6), (3, 5), (5, 6), (1, 1)])
def test_average_pooling_to_sizes_that_divide_and_others(size):
    maps = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype("float32")
    with tf.GradientTape() as tape:
        inputs = tf.constant(maps)
        tape.watch(inputs)
        means = average_pool_to(inputs, size)
    weight = np.random.default_rng(1).normal(size=means.shape)
    np.testing.assert_allclose(means, pooled(maps.astype("float64"), size), rtol=1e-5, atol=1e-6)
    gradient = tape.gradient(means, inputs, output_gradients=tf.constant(weight, "float32"))
    # The pooling is linear: its gradient is that of the sum of weighted means.
    units = np.eye(8 * 6).reshape(48, 8, 6, 1)
    expected = np.einsum("uhwc,bhwd->bud", pooled(units, size), weight).reshape(2, 8, 6, 3)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
