"""LSKD against NumPy in float64, alone and around another method."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import CTKD, DGKD, DIST, DKD, KD, LSKD, FitNet, dgkd_loss, dkd_loss, lskd_loss, standardized
from tests.support import harness
from tests.support.networks import compiled, convolutional, examples, mirrored, same, values
from tests.support.reference import Case, log_softmax, random

SPECS = {"logits": TapSpec("net", (None, 10))}


def reference(student, teacher, temperature=2.0):
    """T^2 KL of logits less their mean, divided by their standard deviation (of K - 1)."""
    losses = []
    for z_s, z_t in zip(student, teacher, strict=True):
        log_s, log_t = (log_softmax((z - z.mean()) / (1e-7 + z.std(ddof=1)) / temperature) for z in (z_s, z_t))
        losses.append(temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum())
    return np.array(losses)


def case(name, scale=1.0, classes=10, step=1e-4, **settings):
    loss, expected = functools.partial(lskd_loss, **settings), functools.partial(reference, **settings)
    others = (random(16, classes, seed=2, scale=5.0),)
    return Case(name, loss, expected, random(16, classes, seed=1, scale=scale) + 1.0, others, step)


CASES = [
    case("CIFAR-100", classes=100),
    case("temperature 4, large logits", scale=100.0, temperature=4.0),
    case("three classes", classes=3),
    case("small logits, for which 1e-7 matters", scale=0.003, step=1e-7),
]


def test_the_unbiased_deviation():
    np.testing.assert_allclose(standardized(np.array([[2.0, 4.0, 6.0]])), [[-1.0, 0.0, 1.0]], rtol=1e-6)
    logits = random(8, 10, scale=3.0)
    np.testing.assert_allclose(np.std(standardized(logits), axis=-1, ddof=1), np.ones(8), rtol=1e-5)


def test_scale_and_offset_matter_neither_for_the_loss_nor_its_gradient():
    student, teacher = random(8, 10, seed=1), random(8, 10, seed=2)
    shifted = 7.0 * student - 2.0
    np.testing.assert_allclose(lskd_loss(shifted, teacher), lskd_loss(student, 0.1 * teacher), rtol=1e-4)
    gradient = np.array(CASES[0].gradients()[0], "float64")  # across both directions in which nothing changes
    assert np.abs(gradient.sum(-1)).max() < 1e-4 * np.abs(gradient).max()
    assert np.abs((gradient * CASES[0].student).sum(-1)).max() < 1e-4 * np.abs(gradient).max()


def test_equal_logits_get_no_gradient():
    logits = np.full((2, 5), 3.0, "float32")
    np.testing.assert_array_equal(Case("", lskd_loss, None, logits, (random(2, 5),)).gradients()[0], np.zeros((2, 5)))


def test_two_logits_raise_because_only_their_order_remains():
    expected = np.array([[1, -1], [-1, 1]]) / 2**0.5
    np.testing.assert_allclose(standardized(np.array([[9.0, 1.0], [1.0, 1.1]])), expected, rtol=1e-5)
    two = {"logits": TapSpec("net", (None, 2))}
    with pytest.raises(ValueError, match=r"(?s)three or more classes.*\(None, 2\).*KD"):
        LSKD().bind(two, two)


def arguments_at(epoch=0):
    outputs = (Outputs({"logits": random(6, 10, seed=seed, scale=4.0)}) for seed in (1, 2))
    return (*outputs, Batch(None, np.arange(6)), Step(tf.constant(0), tf.constant(epoch)))


def test_a_host_sees_standardized_logits_and_keeps_its_weight():
    method = LSKD(host=DKD(weight={0: 1.0, 3: 0.25}, warmup_epochs=0, beta=2.0))
    method.bind(SPECS, SPECS)
    student, teacher, batch, _ = arguments_at()
    logits = (standardized(side["logits"]) for side in (student, teacher))
    expected = np.array(dkd_loss(*logits, batch.label, beta=2.0))
    np.testing.assert_allclose(method(*arguments_at(0)), expected, rtol=1e-6)
    np.testing.assert_allclose(method(*arguments_at(5)), 0.25 * expected, rtol=1e-6)


def test_kd_as_host_is_the_plain_method():
    method, plain = LSKD(host=KD(temperature=3.0, weight=1.0)), LSKD(temperature=3.0)
    for chosen in (method, plain):
        chosen.bind(SPECS, SPECS)
    np.testing.assert_allclose(method(*arguments_at()), plain(*arguments_at()), rtol=1e-6)


def test_each_of_several_teachers_is_standardized():
    method, student = LSKD(host=DGKD(drop=0.0, weight=1.0)), random(4, 10, seed=1)
    method.bind(SPECS, SPECS)
    members = [Outputs({"logits": random(4, 10, seed=seed, scale=seed)}) for seed in (2, 3)]
    teacher = Outputs({"logits": random(4, 10, seed=9)}, members=members)
    loss = method(Outputs({"logits": student}), teacher, Batch(None), Step(0, 0))
    expected = dgkd_loss(standardized(student), [standardized(member["logits"]) for member in members])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_host_is_restored_from_its_configuration():
    again = harness.reload(LSKD(host=DKD(beta=3.0, weight={0: 1.0}), weight=2.0))
    assert isinstance(again.host, DKD) and again.host.beta == 3.0 and again.host.weight.values == [(0, 1.0)]
    assert again.weight == 2.0 and harness.reload(LSKD()).host is None
    assert LSKD(host=DIST(across_replicas=True)).across_replicas and not LSKD(host=DIST()).across_replicas


def test_a_host_with_a_variable_trains_and_is_saved(tmp_path):
    method = LSKD(host=CTKD(weight=1.0, ramp_epochs=0))
    distiller = compiled(Distiller(student=convolutional(), teacher=convolutional(6), methods=[method]))
    assert any(variable is method.host.theta for variable in distiller.trainable_variables)
    distiller.fit(*examples(), epochs=2, verbose=0)
    assert float(method.host.theta) != 1.0
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    assert same(values(distiller.variables), values(again.variables))


def test_a_host_of_the_global_batch_on_two_replicas():
    logs = []
    for devices in (1, 2):
        keras.utils.set_random_seed(0)
        with mirrored(devices).scope():
            method = LSKD(host=DIST(across_replicas=True), weight=1.0)
            distiller = compiled(Distiller(student=convolutional(), teacher=convolutional(6), methods=[method]))
        logs.append(distiller.fit(*examples(), epochs=2, batch_size=16, shuffle=False, verbose=0).history["lskd"])
    np.testing.assert_allclose(*logs, rtol=1e-4)


def test_invalid_hosts_raise():
    with pytest.raises(ValueError, match=r"(?s)logits alone.*stages\[1\]"):
        LSKD(host=FitNet())
    with pytest.raises(TypeError, match="host"):
        LSKD(host="dkd")
    with pytest.raises(ValueError, match="temperature"):
        LSKD(temperature=-2)
    host = KD()
    host.bind(SPECS, SPECS)
    with pytest.raises(ValueError, match="bound before"):
        LSKD(host=host).bind(SPECS, SPECS)
