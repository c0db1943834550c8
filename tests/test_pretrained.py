"""Weights and teachers from elsewhere read what they were trained on, behind images of pixels from 0 to 255."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import applications, layers

import kd_keras as kd
from kd_keras import Teacher
from kd_keras.models import build
from kd_keras.networks.preprocessing import PixelStatistics
from kd_keras.runs import teachers
from kd_keras.runs.images import Images
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.students import build_network
from kd_keras.runs.teachers import TeacherOptions
from tests.support.photographs import CLASSES, COUNT, KINDS, SHAPE, front_of, marked, photographs, write_photographs


def assert_equal(actual, expected, atol=0.0):
    for first, second in zip(actual, expected, strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=atol * max(1, np.abs(second).max()))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def small(source):
    """Options of a training on all photographs in one step that changes no weight but those of BatchNorm."""
    return {"data": source, "epochs": 1, "batch_size": COUNT, "learning_rate": 0.0, "jit": "off"}


@pytest.mark.parametrize("file", ["plain.weights.h5", "plain.keras"])
@pytest.mark.parametrize("name", ["applications/MobileNet", marked("applications/ResNet50")])
def test_weights_of_a_plain_application(name, file, small, tmp_path):
    kind, pixels = KINDS[name], photographs().astype("float32")
    constructor, module = kind.stock
    plain = constructor(weights=None, input_shape=SHAPE, classes=CLASSES, **kind.options)
    plain.save(tmp_path / file) if file.endswith(".keras") else plain.save_weights(tmp_path / file)
    options = ", ".join(f"{key}={value!r}" for key, value in kind.options.items())
    run = kd.train(model=f"{name}({options})", weights=tmp_path / file, **small, run=tmp_path / "run")
    prepared = module.preprocess_input(pixels.copy())
    plain.compile(optimizer=keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
    plain.fit(
        prepared, np.zeros(COUNT), batch_size=COUNT, verbose=0
    )  # moves the statistics of BatchNorm, as the run did
    trained = run.model()
    assert_equal(trained.get_weights(), plain.get_weights(), atol=1e-4)
    probabilities = np.array(keras.ops.softmax(trained.predict(pixels, verbose=0)))
    np.testing.assert_allclose(probabilities, plain.predict(prepared, verbose=0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["applications/VGG16", "applications/InceptionV3"])
def test_weights_are_loaded_behind_the_preprocessing(name, source, tmp_path):
    """VGG16 has its own names for its layers, InceptionV3 those that Keras numbers through the whole process."""
    size = (75, 75, 3) if name.endswith("InceptionV3") else SHAPE
    constructor, module = (applications.InceptionV3, applications.inception_v3)
    if name.endswith("VGG16"):
        constructor, module = KINDS[name].stock
    plain = constructor(weights=None, input_shape=size, classes=CLASSES)
    plain.save_weights(tmp_path / "plain.weights.h5")
    images = Images(Recipe(data=source, image_size=size[:2]), source, None)
    network = build_network(name, images, CLASSES, tmp_path / "plain.weights.h5")
    assert_equal(network.get_weights(), plain.get_weights())
    pixels = tf.image.resize(photographs(), size[:2]).numpy()
    probabilities = np.array(keras.ops.softmax(network.predict(pixels, verbose=0)))
    expected = plain.predict(module.preprocess_input(pixels.copy()), verbose=0)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)


def unit_network():
    """A network that was trained on pixels from 0 to 1, and must not see others: its logits grow with their square."""
    image = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(layers.Multiply()([x, x]))
    return keras.Model(image, layers.Dense(CLASSES, name="logits")(x), name="unit")


def test_a_teacher_of_another_range(small, source, tmp_path):
    network, pixels = unit_network(), photographs().astype("float32")
    expected = network.predict(pixels / 255, verbose=0)
    options = {"data": source, "batch_size": 4}
    recorded = kd.record(teacher=network, teacher_range=(0, 1), output=tmp_path / "recording", **options)
    np.testing.assert_allclose(recorded.read(0, np.arange(COUNT))[0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="range: recorded .*0.0, 1.0.*now"):
        kd.record(teacher=network, output=tmp_path / "recording", **options)
    symmetric = teachers.load_teacher(network, Images(Recipe(), source, None), TeacherOptions(teacher_range=(-1, 1)))
    outputs = symmetric.tapped(["logits"])(pixels)["logits"]
    np.testing.assert_allclose(outputs, network.predict(pixels / 127.5 - 1, verbose=0), rtol=1e-5, atol=1e-6)


def test_distillation_from_a_teacher_of_another_range(small, tmp_path):
    network = unit_network()
    image = keras.Input(SHAPE)
    whole = keras.Model(image, network(layers.Rescaling(1 / 255)(image)))
    teachers_of_the_same_values = {
        "range": {"teacher": network, "teacher_range": (0, 1)},
        "preprocess": {"teacher": Teacher(network, preprocess=lambda images: images / 255)},
        "layer": {"teacher": whole},
        "unscaled": {"teacher": network},
    }
    options = {**small, "learning_rate": 0.1, "epochs": 2, "hard_weight": 0.0, "student": "mlp(hidden=(4,))"}
    weights = {
        name: kd.distill(**teacher, **options, run=tmp_path / name).model().get_weights()
        for name, teacher in teachers_of_the_same_values.items()
    }
    for name in ("preprocess", "layer"):
        assert_equal(weights["range"], weights[name], atol=1e-5)
    differences = [np.abs(a - b).max() for a, b in zip(weights["range"], weights["unscaled"], strict=True)]
    assert max(differences) > 1e-2, "the student does not depend on the teacher's range"


def test_weights_of_a_zoo_network_bring_its_normalization(small, tmp_path):
    """Though the new data would be normalized otherwise; a file of weights alone has no normalization."""
    elsewhere = PixelStatistics((90.0, 100.0, 110.0), (40.0, 50.0, 60.0))
    network, pixels = build("vgg8", SHAPE, CLASSES, normalization=elsewhere), photographs().astype("float32")
    network.save(tmp_path / "zoo.keras")
    network.save_weights(tmp_path / "zoo.weights.h5")
    mean, std = (statistic((0, 1, 2)).tolist() for statistic in (pixels.mean, pixels.std))
    fitted = PixelStatistics(tuple(mean), tuple(std))
    for file, statistics in (("zoo.keras", elsewhere), ("zoo.weights.h5", fitted)):
        trained = kd.train(model="vgg8", weights=tmp_path / file, **small, run=tmp_path / f"run_{file}").model()
        expected = (pixels - np.array(statistics.mean)) / np.array(statistics.std)
        values = front_of(trained).predict(pixels, verbose=0)
        np.testing.assert_allclose(values, expected.reshape(COUNT, -1), rtol=0, atol=1e-4)
        assert_equal(trained.trainable_weights, network.trainable_weights)
