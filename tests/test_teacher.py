"""The teacher: frozen, one network or several, with another input size or order of classes than the student."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller, Teacher
from kd_keras.methods import KD, FitNet
from tests.support.networks import CLASSES, SHAPE, Passes, compiled, convolutional, examples, same, values
from tests.support.reference import log_softmax

X, Y = examples(16)


def logits(teacher):
    return np.array(teacher.tapped(["logits"])(X)["logits"])


def test_the_teacher_runs_in_inference():
    network = convolutional(normalized=True, dropout=0.5)
    before = values(network.variables)
    np.testing.assert_allclose(logits(Teacher(network)), network(X, training=False), rtol=1e-6)
    assert same(before, values(network.variables))


@pytest.mark.parametrize("weights", [None, (3.0, 1.0)])
def test_several_networks_are_combined_by_probabilities_or_logits(weights):
    networks = [convolutional(name=f"net{number}") for number in range(2)]
    fraction = np.array(weights or (1.0, 1.0), "float64") / sum(weights or (1.0, 1.0))
    first, second = (np.array(network(X), "float64") for network in networks)
    mean = fraction[0] * first + fraction[1] * second
    np.testing.assert_allclose(logits(Teacher(networks, weights=weights, combine="logits")), mean, rtol=1e-5, atol=1e-6)
    mixed = np.log(fraction[0] * np.exp(log_softmax(first)) + fraction[1] * np.exp(log_softmax(second)))
    np.testing.assert_allclose(logits(Teacher(networks, weights=weights)), mixed, rtol=1e-5)
    members = Teacher(networks).tapped(["logits"])(X).members
    np.testing.assert_allclose(members[1]["logits"], second, rtol=1e-5)


def test_a_network_of_weight_0_has_no_effect():
    networks = [convolutional(name=f"net{number}") for number in range(2)]
    expected = log_softmax(np.array(networks[0](X)))
    np.testing.assert_allclose(logits(Teacher(networks, weights=(1, 0))), expected, atol=1e-5)


def test_a_teacher_with_another_input_size_and_preprocessing():
    network = convolutional(shape=(16, 16, 3))
    prepared = keras.ops.image.resize(2 * X + 1, (16, 16), interpolation="bilinear", antialias=True)
    teacher = Teacher(network, preprocess=lambda images: 2 * images + 1)
    np.testing.assert_allclose(logits(teacher), network(prepared), rtol=1e-5, atol=1e-6)
    distiller = compiled(Distiller(student=convolutional(), teacher=teacher, methods=[KD()]))
    assert np.isfinite(distiller.fit(X, Y, verbose=0).history["kd"]).all()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_preprocessing_reads_floats_whatever_the_data(dtype):
    """In the arithmetic of uint8, 100 - 128 is 228."""
    network, pixels = convolutional(), np.random.default_rng(0).integers(0, 256, (16, *SHAPE))
    teacher = Teacher(network, preprocess=lambda images: (images - 128) / 64).tapped(["logits"])
    expected = network((pixels - 128.0) / 64)
    np.testing.assert_allclose(teacher(pixels.astype(dtype))["logits"], expected, rtol=1e-5, atol=1e-5)


def test_a_teacher_with_more_classes_in_another_order():
    network = convolutional(classes=7)
    order = [6, 0, 3, 2, 1]
    np.testing.assert_allclose(logits(Teacher(network, class_order=order)), np.array(network(X))[:, order], rtol=1e-6)
    Distiller(student=convolutional(), teacher=Teacher(network, class_order=order), methods=[KD()])
    with pytest.raises(ValueError, match=r"(?s)below 7.*9"):
        Teacher(network, class_order=[0, 9]).tapped(["logits"])


def test_a_float32_teacher_of_a_float16_student():
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
        (lambda: Teacher(convolutional(), combine="logit"), ValueError, "Did you mean logits"),
        (lambda: Teacher(convolutional(), class_order=[-1]), ValueError, "class_order"),
        (lambda: Teacher(convolutional(), class_order=[0.5, 1]), TypeError, "list of integers"),
        (lambda: Teacher(convolutional(), class_order=5), TypeError, r"integers, but received 5 \(int\)"),
        (lambda: Teacher(convolutional(), weights=0.5), TypeError, "1 weights in a list"),
        (lambda: Teacher(convolutional(), preprocess="symmetric"), TypeError, "a function, or a list of functions"),
        (lambda: Teacher([convolutional(), convolutional(classes=9)]).tapped(["logits"]), ValueError, "class count"),
        (
            lambda: Teacher([convolutional()] * 2).tapped(["embedding"]),
            ValueError,
            r"taps \['embedding'\] needs one teacher, but received 2",
        ),
    ],
)
def test_invalid_teachers_are_rejected(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_teacher_of_other_images_is_rejected():
    with pytest.raises(ValueError, match=r"(?s)reads \(None, 8, 8, 1\).*preprocess"):
        Distiller(student=convolutional(), teacher=convolutional(shape=(8, 8, 1)), methods=[KD()])


def test_a_teacher_that_is_not_finite_stops_the_fit():
    teacher = convolutional(name="teacher")
    teacher.get_layer("logits").bias.assign([np.nan] * CLASSES)
    distiller = compiled(Distiller(student=convolutional(), teacher=teacher, methods=[KD()]))
    with pytest.raises(FloatingPointError, match="finite"):
        distiller.fit(X, Y, verbose=0)


def test_a_teacher_at_chance_level_is_reported():
    class Predictions(keras.layers.Layer):
        """Logits that are read from the pixels, so that the test decides how many predictions are right."""

        def call(self, images):
            return 10.0 * images[:, 0, :, 0][:, :CLASSES]

    inputs = keras.Input(X.shape[1:])
    teacher = keras.Model(inputs, Predictions()(inputs))
    x, y = np.zeros((100, 8, 8, 3), "float32"), np.tile(np.arange(CLASSES), 20)
    for correct, warns in ((20, True), (90, False)):
        predicted = np.where(np.arange(100) < correct, y, (y + 1) % CLASSES)
        x[:, 0, :CLASSES, 0] = np.eye(CLASSES)[predicted]
        distiller = compiled(Distiller(student=convolutional(), teacher=teacher, methods=[KD()]))
        with pytest.warns(UserWarning, match="20.0% of the first 100") if warns else _no_warning():
            distiller.fit(x, y, batch_size=50, shuffle=False, verbose=0)


@contextlib.contextmanager
def _no_warning():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The teacher is right")
        yield


def test_no_layer_after_the_wanted_taps_runs():
    layer, inputs = Passes(), keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="first")(inputs)
    network = keras.Model(inputs, layers.Dense(CLASSES)(layer(layers.GlobalAveragePooling2D()(x))))
    taps = Teacher(network).tapped(["first"])(np.zeros((2, *SHAPE), "float32"))
    assert taps["first"].shape == (2, 6, 6, 4) and layer.read() == (0, 0)


def test_a_teacher_is_no_function_for_another_teacher():
    with pytest.raises(TypeError, match="a built Keras model"):
        Teacher(Teacher(convolutional()))


@pytest.mark.parametrize("order", [[2, 0, 1, 4, 3], [3, 1]])
def test_a_head_by_its_name_is_in_the_students_order_too(order):
    network = convolutional()
    name = network.layers[-1].name
    teacher = Teacher(network, class_order=order).tapped([f"logits:{name}"])
    np.testing.assert_allclose(teacher(X)[f"logits:{name}"], np.array(network(X))[:, order], rtol=1e-6)
    assert teacher.specs[f"logits:{name}"].shape[-1] == len(order)
