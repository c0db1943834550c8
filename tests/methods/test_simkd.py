"""SimKD against NumPy in float64, and the student that it builds."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kd_keras import Distiller
from kd_keras.methods import SimKD, simkd_loss, simkd_student
from kd_keras.models import build
from kd_keras.networks.taps import Tapped
from tests.support.networks import CLASSES, SHAPE, compiled, convolutional, examples, same, values
from tests.support.reference import Case, pooled, random


def reference(student, teacher):
    size = tuple(np.minimum(student.shape[1:3], teacher.shape[1:3]))
    return ((pooled(student, size) - pooled(teacher, size)) ** 2).mean((1, 2, 3))


CASES = [
    Case("one size", simkd_loss, reference, random(4, 3, 3, 5), (random(4, 3, 3, 5, seed=1),)),
    Case("a larger teacher", simkd_loss, reference, random(4, 3, 2, 5), (random(4, 7, 4, 5, seed=1),)),
    Case("a larger student", simkd_loss, reference, random(4, 6, 5, 5), (random(4, 3, 4, 5, seed=1),)),
]


def pair(strides=2, **options):
    """A student with maps of 4x4x8 and a teacher with maps of 12 channels, with BatchNorm and random biases."""
    teacher = convolutional(6, normalized=True, bias_initializer="random_normal", name="teacher")
    return convolutional(4, normalized=True, **options), teacher


def test_the_parameters_by_hand():
    student, teacher = pair()
    backbone = student.count_params() - (8 + 1) * CLASSES
    for reduction, narrow_width in ((1, 12), (2, 6), (5, 2), (100, 1)):
        model = simkd_student(student, teacher, reduction=reduction)
        adapter = 8 * narrow_width + 9 * narrow_width**2 + narrow_width * 12 + 4 * (2 * narrow_width + 12)
        assert model.count_params() == backbone + adapter + 13 * CLASSES
        frozen = [variable for variable in model.layers[-1].variables if not variable.trainable]
        assert len(frozen) == 2 and not model.layers[-1].trainable_variables


def test_the_parameters_of_the_published_pair():
    """resnet32x4 to resnet8x4 on CIFAR-100, whose adapters at 2, 4 and 8 are sized by the paper's formula."""
    student, teacher = (build(name, (32, 32, 3), 100) for name in ("resnet8x4", "resnet32x4"))
    for reduction in (2, 4, 8):
        narrow_width = 256 // reduction
        model = simkd_student(student, teacher, reduction=reduction)
        convolutions = [model.get_layer(f"adapter_{number}_conv") for number in (1, 2, 3)]
        assert (
            sum(np.prod(layer.kernel.shape) for layer in convolutions) == 2 * 256 * narrow_width + 9 * narrow_width**2
        )


def test_the_students_layers_are_shared_and_its_classifier_is_dropped():
    student, teacher = pair()
    model = simkd_student(student, teacher)
    for layer in student.layers[1:-2]:
        assert model.get_layer(layer.name) is layer
    assert student.get_layer("logits") not in model.layers and model.layers[-1].name == "logits"
    x, _ = examples()
    before = student.predict(x, verbose=0)
    model.get_layer("conv1").kernel.assign(0 * model.get_layer("conv1").kernel)
    assert np.abs(student.predict(x, verbose=0) - before).max() > 0


def test_the_logits_are_the_teachers_classifier_on_the_adapted_map():
    model = simkd_student(*(networks := pair()))
    output, taps = Tapped(model, ["stages[-1]", "logits"])(examples()[0], training=False)
    kernel, bias = values(networks[1].layers[-1].weights)
    np.testing.assert_allclose(output, np.asarray(taps["stages[-1]"]).mean((1, 2)) @ kernel + bias, atol=1e-5)
    assert taps["stages[-1]"].shape[1:] == (4, 4, 12)


def narrowed(shape, size, width=4):
    """A network whose last map is `size`."""
    inputs = keras.Input(shape)
    kernel = tuple(length - target + 1 for length, target in zip(shape[:2], size, strict=True))
    x = layers.Conv2D(width, kernel, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(
    "student_size, teacher_size, kind",
    [
        ((6, 6), (3, 3), "AveragePooling2D"),
        ((7, 6), (4, 3), "AdaptivePooling"),
        ((3, 3), (6, 6), None),
        ((3, 6), (6, 3), "AveragePooling2D"),
    ],
)
def test_larger_maps_are_pooled(student_size, teacher_size, kind, tmp_path):
    student, teacher = narrowed((9, 9, 3), student_size), narrowed((9, 9, 3), teacher_size, 6)
    model = simkd_student(student, teacher)
    pools = [layer for layer in model.layers if layer.name == "adapter_pool"]
    assert [type(layer).__name__ for layer in pools] == [kind] * (kind is not None)
    smaller = tuple(np.minimum(student_size, teacher_size))
    assert model.get_layer("adapter_3_relu").output.shape[1:] == (*smaller, 6)
    x = random(3, 9, 9, 3)
    if pools:
        values_around = keras.Model(model.inputs[0], [pools[0].input, pools[0].output])(x)
        np.testing.assert_allclose(
            values_around[1], pooled(np.asarray(values_around[0], "float64"), smaller), atol=1e-5
        )
    model.save(tmp_path / "student.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "student.keras")(x), model(x), atol=1e-6)


def sequential():
    parts = [layers.Conv2D(4, 3, strides=2, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]
    network = keras.Sequential([keras.Input(SHAPE), *parts])
    return network, network.layers[0]


def nested():
    inputs, x = keras.Input(SHAPE), keras.Input(SHAPE)
    relu, first = layers.ReLU(), layers.Conv2D(4, 3, name="first")  # the ReLU is called twice
    inner = keras.Model(x, relu(layers.Conv2D(4, 3, name="second")(relu(first(x)))), name="inner")
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(inner(inputs)))), first


def named_like_the_end():
    inputs, first = keras.Input(SHAPE), layers.Conv2D(4, 3, name="logits")
    x = first(layers.MaxPooling2D(name="pool")(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x))), first


@pytest.mark.parametrize("make", [sequential, nested, named_like_the_end])
def test_students_of_any_kind(make, tmp_path):
    (student, first), teacher = make(), pair()[1]
    model, kernel = simkd_student(student, teacher), first.kernel
    x, _ = examples()
    before = np.array(kernel)
    distiller = Distiller(student=model, teacher=teacher, methods=[SimKD()], hard_weight=0)
    distiller.compile("sgd", jit_compile=False)
    distiller.fit(x, verbose=0)
    assert np.abs(np.array(kernel) - before).max() > 0
    model.save(tmp_path / "student.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "student.keras")(x), model(x), atol=1e-5)


def test_a_recording_without_the_network_raises():
    with pytest.raises(ValueError, match="(?s)teacher's network.*only a recording.*--teacher=.*--recording="):
        SimKD().student_from(pair()[0], None)


def test_the_classifier_stays_frozen_and_the_whole_model_is_exported(tmp_path):
    student, teacher = pair()
    method = SimKD()
    model = method.student_from(student, teacher)
    x, y = examples()
    distiller = compiled(
        Distiller(student=model, teacher=teacher, methods=[method], hard_weight=1.0), jit_compile=False
    )
    before = values(model.trainable_variables)
    history = distiller.fit(x, y, epochs=5, verbose=0).history
    assert history["simkd"][-1] < history["simkd"][0]
    assert same(values(model.layers[-1].weights), values(teacher.layers[-1].weights))
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, values(model.trainable_variables), strict=True))
    expected = model.predict(x, verbose=0)
    distiller.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(loaded.serve(x), expected, atol=1e-5)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, atol=1e-6)
    assert not again.student.layers[-1].trainable_variables


def test_an_unmodified_student_raises():
    student, teacher = pair()
    with pytest.raises(ValueError, match=r"(?s)\(None, 4, 4, 8\).*\(None, 4, 4, 12\).*Pass Distiller.*simkd_student"):
        Distiller(student=student, teacher=teacher, methods=[SimKD()])


def ending(last):
    inputs = keras.Input(SHAPE)
    x = last(layers.Conv2D(6, 3, bias_initializer="random_normal")(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def test_a_classifier_that_reads_another_value_raises():
    for last in (layers.GlobalMaxPooling2D(), layers.Flatten()):
        with pytest.raises(ValueError, match=r"(?s)last map's mean.*Choose a teacher.*GlobalAveragePooling2D"):
            simkd_student(pair()[0], ending(last))
    deeper = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(6, activation="relu")])
    with pytest.raises(ValueError, match=r"(?s)last map's mean"):
        simkd_student(pair()[0], ending(deeper))
    assert simkd_student(pair()[0], ending(keras.Sequential([layers.AveragePooling2D(6), layers.Flatten()])))


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_networks_that_do_not_fit_raise():
    with pytest.raises(ValueError, match=r"(?s)graph of layers.*Functional"):
        simkd_student(Subclassed(), pair()[1])
    inputs, x = keras.Input(SHAPE), keras.Input(SHAPE)
    first, second = (keras.Model(x, layers.Conv2D(3, 3, padding="same", name="conv")(x), name=name) for name in "ab")
    twice = keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(second(first(inputs)))))
    with pytest.raises(ValueError, match=r"(?s)differ in name.*b_conv.*Rename them"):
        simkd_student(twice, pair()[1])
    for reduction, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="reduction"):
            SimKD(reduction=reduction)
