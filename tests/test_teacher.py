"""The teacher: frozen, one network or several, with an input size and an order of classes of its own."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller, Teacher
from kd_keras.methods import KD, FitNet
from tests.support.networks import CLASSES, SHAPE, Passes, compiled, convolutional, examples, same, values

X, Y = examples(16)


def logits(teacher):
    return np.array(teacher.tapped(["logits"])(X)["logits"])


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_one_network_in_inference_form():
    network = convolutional(normalised=True, dropout=0.5)
    before = values(network.variables)
    np.testing.assert_allclose(logits(Teacher(network)), network(X, training=False), rtol=1e-6)
    assert same(before, values(network.variables))


@pytest.mark.parametrize("weights", [None, (3.0, 1.0)])
def test_several_networks(weights):
    networks = [convolutional(name=f"net{number}") for number in range(2)]
    share = np.array(weights or (1.0, 1.0), "float64") / sum(weights or (1.0, 1.0))
    one, other = (np.array(network(X), "float64") for network in networks)
    mean = share[0] * one + share[1] * other
    np.testing.assert_allclose(logits(Teacher(networks, weights=weights, combine="logits")), mean, rtol=1e-5, atol=1e-6)
    mixed = np.log(share[0] * np.exp(log_softmax(one)) + share[1] * np.exp(log_softmax(other)))
    np.testing.assert_allclose(logits(Teacher(networks, weights=weights)), mixed, rtol=1e-5)
    members = Teacher(networks).tapped(["logits"])(X).members
    np.testing.assert_allclose(members[1]["logits"], other, rtol=1e-5)


def test_a_network_that_counts_for_nothing():
    networks = [convolutional(name=f"net{number}") for number in range(2)]
    expected = log_softmax(np.array(networks[0](X)))
    np.testing.assert_allclose(logits(Teacher(networks, weights=(1, 0))), expected, atol=1e-5)


def test_another_input_size_and_normalisation():
    network = convolutional(shape=(16, 16, 3))
    seen = keras.ops.image.resize(2 * X + 1, (16, 16), interpolation="bilinear", antialias=True)
    teacher = Teacher(network, preprocess=lambda images: 2 * images + 1)
    np.testing.assert_allclose(logits(teacher), network(seen), rtol=1e-5, atol=1e-6)
    distiller = compiled(Distiller(student=convolutional(), teacher=teacher, methods=[KD()]))
    assert np.isfinite(distiller.fit(X, Y, verbose=0).history["kd"]).all()


def test_another_order_of_classes_and_more_of_them():
    network = convolutional(classes=7)
    order = [6, 0, 3, 2, 1]
    np.testing.assert_allclose(logits(Teacher(network, class_order=order)), np.array(network(X))[:, order], rtol=1e-6)
    Distiller(student=convolutional(), teacher=Teacher(network, class_order=order), methods=[KD()])
    with pytest.raises(ValueError, match=r"(?s)below 7.*9"):
        Teacher(network, class_order=[0, 9]).tapped(["logits"])


def test_another_dtype_policy():
    keras.config.set_dtype_policy("mixed_float16")
    student = convolutional()
    keras.config.set_dtype_policy("float32")
    teacher = convolutional(name="teacher")
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[KD(), FitNet()]))
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    history = distiller.fit(X, Y, epochs=2, verbose=0).history
    assert np.isfinite([history["kd"], history["fitnet"]]).all()


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Teacher([]), ValueError, "at least one"),
        (lambda: Teacher(["net"]), TypeError, "str"),
        (lambda: Teacher([convolutional()], weights=[1, 2]), ValueError, "1 weights"),
        (lambda: Teacher([convolutional()], weights=[-1]), ValueError, "below zero"),
        (lambda: Teacher(convolutional(), combine="logit"), ValueError, "did you mean logits"),
        (lambda: Teacher(convolutional(), class_order=[-1]), ValueError, "class_order"),
        (lambda: Teacher([convolutional(), convolutional(classes=9)]).tapped(["logits"]), ValueError, "class count"),
        (
            lambda: Teacher([convolutional()] * 2).tapped(["embedding"]),
            ValueError,
            r"taps \['embedding'\] needs one teacher, but received 2",
        ),
    ],
)
def test_bad_teachers(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_teacher_of_other_images():
    with pytest.raises(ValueError, match=r"(?s)reads \(None, 8, 8, 1\).*preprocess"):
        Distiller(student=convolutional(), teacher=convolutional(shape=(8, 8, 1)), methods=[KD()])


def test_a_teacher_that_is_not_finite_stops_the_fit():
    teacher = convolutional(name="teacher")
    teacher.get_layer("logits").bias.assign([np.nan] * CLASSES)
    distiller = compiled(Distiller(student=convolutional(), teacher=teacher, methods=[KD()]))
    with pytest.raises(FloatingPointError, match="finite"):
        distiller.fit(X, Y, verbose=0)


def test_a_teacher_at_chance_level_is_named():
    class Predictions(keras.layers.Layer):
        """Logits read off the image, so that the teacher is right on as many as we like."""

        def call(self, images):
            return 10.0 * images[:, 0, :, 0][:, :CLASSES]

    inputs = keras.Input(X.shape[1:])
    teacher = keras.Model(inputs, Predictions()(inputs))
    x, y = np.zeros((100, 8, 8, 3), "float32"), np.tile(np.arange(CLASSES), 20)
    for right, warns in ((20, True), (90, False)):
        answered = np.where(np.arange(100) < right, y, (y + 1) % CLASSES)
        x[:, 0, :CLASSES, 0] = np.eye(CLASSES)[answered]
        distiller = compiled(Distiller(student=convolutional(), teacher=teacher, methods=[KD()]))
        with pytest.warns(UserWarning, match="20.0% of the first 100") if warns else _no_warning():
            distiller.fit(x, y, batch_size=50, shuffle=False, verbose=0)


@contextlib.contextmanager
def _no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_nothing_behind_the_wanted_taps_runs():
    layer, inputs = Passes(), keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="first")(inputs)
    network = keras.Model(inputs, layers.Dense(CLASSES)(layer(layers.GlobalAveragePooling2D()(x))))
    taps = Teacher(network).tapped(["first"])(np.zeros((2, *SHAPE), "float32"))
    assert taps["first"].shape == (2, 6, 6, 4) and layer.read() == (0, 0)
