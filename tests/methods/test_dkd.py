"""DKD against NumPy in float64, example by example, and against KD, of which it is the two parts."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.contracts import Batch, Outputs, Step
from kd_keras.methods import DKD, dkd_loss, kd_loss
from tests.support.networks import compiled, convolutional, examples
from tests.support.reference import Case, log_softmax, random, softmax


def kl(log_t, log_s):
    return float(sum(np.exp(t) * (t - s) for t, s in zip(log_t, log_s, strict=True)))


def parts(z, y, temperature):
    """The logarithms of [p_y, sum of the others], and of the others divided by their sum."""
    logs = log_softmax(z / temperature)
    others = np.array([log for j, log in enumerate(logs) if j != y])
    rest = others.max() + np.log(np.exp(others - others.max()).sum())
    return [logs[y], rest], others - rest


def reference(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    losses = []
    for z_s, z_t, y in zip(student, teacher, labels, strict=True):
        (pair_s, others_s), (pair_t, others_t) = parts(z_s, y, temperature), parts(z_t, y, temperature)
        losses.append(temperature**2 * (alpha * kl(pair_t, pair_s) + beta * kl(others_t, others_s)))
    return np.array(losses)


def case(name, scale=1.0, classes=10, **settings):
    labels = np.random.default_rng(5).integers(0, classes, 16)
    return Case(
        name,
        functools.partial(dkd_loss, **settings),
        functools.partial(reference, **settings),
        random(16, classes, seed=1, scale=scale),
        (random(16, classes, seed=2, scale=scale), labels),
    )


CASES = [
    case("CIFAR-100", classes=100),
    case("ImageNet, ResNet-34 to 18", beta=0.5, temperature=1.0),
    case("larger logits, alpha 2", scale=8.0, alpha=2.0, beta=2.0),
    case("logits to 400", scale=130.0),
    case("two classes", classes=2),
]
# The loss grows to its size over 20 epochs by default, so that it could not fall over the harness's first ones.
OPTIONS = {"DKD": {"warmup_epochs": 0}}


def test_kd_is_its_two_parts():
    """KD = TCKD + (1 - p_y of the teacher) NCKD, equation 6."""
    student, teacher = random(8, 10, seed=1, scale=3.0), random(8, 10, seed=2, scale=3.0)
    labels = np.arange(8)
    other_mass = 1 - softmax(teacher.astype("float64") / 4.0)[np.arange(8), labels]
    target, others = (dkd_loss(student, teacher, labels, alpha=a, beta=1.0 - a) for a in (1.0, 0.0))
    np.testing.assert_allclose(target + other_mass * others, kd_loss(student, teacher), rtol=1e-5)


def test_the_loss_is_zero_at_the_teacher_for_every_offset():
    logits, labels = random(20, 10, scale=4.0), np.arange(20) % 10
    np.testing.assert_allclose(dkd_loss(logits + 3.0, logits, labels), np.zeros(20), atol=1e-5)


def test_labels_of_every_form():
    student, teacher, labels = random(4, 3, seed=1), random(4, 3, seed=2), np.array([2, 0, 1, 2])
    expected = np.array(dkd_loss(student, teacher, labels))
    smoothed = np.eye(3, dtype="float32")[labels] * 0.7 + 0.1
    for form in (labels[:, None], labels.astype("float32"), np.eye(3)[labels], smoothed, tf.constant(labels)):
        np.testing.assert_array_equal(dkd_loss(student, teacher, form), expected)
    for wrong in (None, np.eye(4)[labels], labels[:, None, None], {"class": labels}):
        with pytest.raises(ValueError, match=r"(?s)labels \(B,\).*but received.*Use a dataset"):
            dkd_loss(student, teacher, wrong)


def test_data_without_labels_raises():
    distiller = Distiller(student=convolutional(), teacher=convolutional(), methods=[DKD()], hard_weight=0)
    distiller.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="labels.*DKD, but received none"):
        distiller.fit(examples()[0], verbose=0)


def test_one_hot_labels_train_the_same():
    x, y = examples()
    logs = []
    losses = keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy
    for labels, loss in zip((y, np.eye(5)[y]), losses, strict=True):
        keras.utils.set_random_seed(0)
        distiller = Distiller(student=convolutional(), teacher=convolutional(6), methods=[DKD(warmup_epochs=2)])
        compiled(distiller, loss=loss(from_logits=True))
        logs.append(distiller.fit(x, labels, epochs=3, shuffle=False, verbose=0).history["dkd"])
    np.testing.assert_allclose(*logs, rtol=1e-5)


@pytest.mark.parametrize("epoch, factor", [(0, 0.05), (9, 0.5), (19, 1.0), (200, 1.0)])
def test_the_warm_up(epoch, factor):
    student, teacher, labels = random(4, 3, seed=1), random(4, 3, seed=2), np.array([2, 0, 1, 2])
    outputs = (Outputs({"logits": student}), Outputs({"logits": teacher}))
    arguments = (*outputs, Batch(None, labels), Step(0, tf.constant(epoch)))
    full = np.array(dkd_loss(student, teacher, labels))
    np.testing.assert_allclose(DKD().call(*arguments), factor * full, rtol=1e-6)
    np.testing.assert_array_equal(DKD(warmup_epochs=0).call(*arguments), full)


@pytest.mark.parametrize(
    "arguments, error",
    [({"temperature": 0}, ValueError), ({"alpha": "one"}, TypeError), ({"warmup_epochs": -1}, ValueError)],
)
def test_invalid_arguments_raise(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        DKD(**arguments)
