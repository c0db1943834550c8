"""The inputs of a network by name, images of any size, the order of axes, and networks that are no Keras models."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kd_keras import Distiller, Teacher
from kd_keras.methods import AT, KD, FitNet
from kd_keras.networks.inputs import resize_to_input, select_inputs
from kd_keras.networks.layouts import find_channels_first, reads_channels_first
from kd_keras.networks.stages import StagedGraph
from kd_keras.networks.taps import Tapped
from tests.support.networks import CLASSES, SHAPE, compiled, convolutional, examples, same, values

X, Y = examples(16)


def named(*names, shape=(4,)):
    inputs = {name: keras.Input(shape, name=name) for name in names}
    joined = layers.Concatenate()(list(inputs.values())) if len(names) > 1 else inputs[names[0]]
    return keras.Model(inputs, layers.Dense(3)(joined))


def test_each_network_gets_its_own_inputs_by_name():
    data = {"rgb": np.ones((8, 4), "float32"), "depth": np.full((8, 4), 5.0, "float32")}
    student, teacher, labels = named("rgb"), named("depth", "rgb"), np.arange(8) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = Distiller(student=student, teacher=teacher, methods=[KD()])
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    history = distiller.fit(data, labels, verbose=0).history
    np.testing.assert_allclose(history["hard"][0], loss(labels, student({"rgb": data["rgb"]})), rtol=1e-5)
    np.testing.assert_allclose(distiller.predict(data, verbose=0), student({"rgb": data["rgb"]}), rtol=1e-5)


def test_inputs_in_the_structure_of_the_network():
    data = {"a": 1, "b": 2, "c": 3}
    several = [keras.Input((4,), name=name) for name in ("c", "a")]
    listed = keras.Model(several, layers.Add()(several))
    assert select_inputs(listed, data) == [3, 1]
    assert select_inputs(named("b"), data) == {"b": 2}
    assert select_inputs(keras.Sequential([keras.Input((4,), name="b"), layers.Dense(3)]), data) == 2
    assert select_inputs(convolutional(), {"pixels": 7}) == 7  # one of any name
    assert select_inputs(listed, [5, 6]) == [5, 6]


@pytest.mark.parametrize(
    "inputs, received", [({"id": 1, "pixels": 2}, r"keys \['id', 'pixels'\]"), ((1, 2), "2 tensors")]
)
def test_inputs_of_other_names_or_number_are_rejected(inputs, received):
    with pytest.raises(ValueError, match=f"the inputs 'image' of network 'net', but received .*{received}"):
        select_inputs(convolutional(), inputs)


def test_images_of_unknown_size_are_resized_as_those_of_known_size():
    network, images = convolutional(), np.random.default_rng(0).uniform(size=(2, 20, 12, 3)).astype("float32")
    for size in ((20, 12), (8, 8), (4, 6)):
        part = images[:, : size[0], : size[1]]
        known = resize_to_input(network, tf.constant(part))
        run = tf.function(lambda x: resize_to_input(network, x), input_signature=[tf.TensorSpec((None, None, None, 3))])
        np.testing.assert_allclose(run(part), known, atol=1e-5)


def test_a_student_of_any_size_and_a_teacher_of_one_size():
    student = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
    student.add(layers.Dense(CLASSES))
    distiller = compiled(Distiller(student=student, teacher=convolutional(), methods=[KD()]))
    assert distiller.supports_jit is False  # XLA has no antialiased resize
    batches = [(np.ones((2, size, size, 3), "float32"), np.array([0, 1])) for size in (6, 8, 12)]
    signature = (tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    assert np.isfinite(distiller.fit(data, verbose=0).history["kd"]).all()


def test_a_teacher_of_higher_resolution_is_logged_once(caplog):
    with caplog.at_level(logging.WARNING, "kd_keras"):
        Distiller(student=convolutional(), teacher=convolutional(shape=(16, 16, 3)), methods=[KD()])
        Distiller(student=convolutional(shape=(16, 16, 3)), teacher=convolutional(), methods=[KD()])
    assert [record.levelname for record in caplog.records if "enlarged" in record.message] == ["WARNING"]


# ---- channels_first


def in_both_orders(width=6, **options):
    """The same network for `(B, H, W, C)` and for `(B, C, H, W)`, of equal weights."""
    networks = []
    for order, axis in (("channels_last", -1), ("channels_first", 1)):
        x = inputs = keras.Input((8, 6, 3) if order == "channels_last" else (3, 8, 6))
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, data_format=order, name="conv1", **options)(x)
        x = layers.ReLU(name="relu1")(layers.BatchNormalization(axis, name="norm")(x))
        x = layers.MaxPooling2D(data_format=order, name="pool")(x)
        x = layers.Conv2D(width + 1, 3, padding="same", data_format=order, activation="relu", name="conv2")(x)
        x = layers.Conv2D(5, 1, data_format=order, name="classify")(x)
        networks.append(keras.Model(inputs, layers.GlobalAveragePooling2D(data_format=order)(x)))
    for variable, source in zip(networks[1].variables, networks[0].variables, strict=True):
        variable.assign(source)
    return networks


def run_compiled(network, taps, images):
    """The taps by XLA, because TensorFlow's own convolution on a CPU knows channels_last alone."""
    tapped = Tapped(network, taps, output=False)
    run = tf.function(lambda x: dict(tapped(x, training=False)[1]), jit_compile=True)
    return tapped, run(images)


def test_maps_in_channels_first_are_transposed():
    last, first = in_both_orders()
    images = np.random.default_rng(0).uniform(size=(2, 8, 6, 3)).astype("float32")
    taps = ["logits", "embedding", "stages", "stages:pre", "conv2", "relu1"]
    tapped, expected = run_compiled(last, taps, images)
    tapped_first, found = run_compiled(first, taps, images.transpose(0, 3, 1, 2))
    assert tapped_first.specs.shapes == tapped.specs.shapes
    for one, other in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_methods_on_maps_in_channels_first_have_the_values_of_channels_last():
    images = np.random.default_rng(0).uniform(size=(16, 8, 6, 3)).astype("float32")
    histories = []
    for order, x in enumerate((images, images.transpose(0, 3, 1, 2))):
        keras.utils.set_random_seed(0)
        student, teacher = in_both_orders(4)[order], in_both_orders(7)[order]
        keras.utils.set_random_seed(1)
        methods = [AT(weight=1.0), FitNet(student_tap="conv2", teacher_tap="conv2", weight=1.0)]
        distiller = Distiller(student=student, teacher=teacher, methods=methods)
        distiller.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(True), jit_compile=True)
        histories.append(distiller.fit(x, np.arange(16) % 5, batch_size=16, verbose=0).history)
    for name, value in histories[0].items():
        np.testing.assert_allclose(histories[1][name], value, rtol=1e-4, err_msg=name)


def test_the_order_of_axes_follows_permutations_and_channel_shuffles():
    x = inputs = keras.Input((3, 8, 8))
    x = layers.Conv2D(4, 3, padding="same", data_format="channels_first", name="conv")(x)
    x = layers.Permute((2, 1, 3, 4), name="swap")(layers.Reshape((2, 2, 8, 8))(x))
    x = layers.Reshape((4, 8, 8), name="shuffled")(x)
    x = layers.Permute((2, 3, 1), name="last")(x)
    x = layers.Conv2D(4, 3, padding="same", name="conv_last")(x)
    back = keras.ops.transpose(x, (0, 3, 1, 2))
    graph = StagedGraph(keras.Model(inputs, back))
    found = find_channels_first(graph.calls)
    orders = {call.path: id(call.results[0]) in found for call in graph.calls}
    assert [orders[name] for name in ("conv", "shuffled", "last", "conv_last")] == [True, True, False, False]
    assert list(orders.values())[-1]
    assert reads_channels_first(graph.model) and not reads_channels_first(convolutional())


def test_a_teacher_in_channels_first_resizes_height_and_width():
    inputs = keras.Input((3, 8, 8))
    network = keras.Model(inputs, layers.Conv2D(4, 3, data_format="channels_first")(inputs))
    images = np.random.default_rng(0).uniform(size=(2, 3, 4, 4)).astype("float32")
    expected = keras.ops.image.resize(images.transpose(0, 2, 3, 1), (8, 8))
    np.testing.assert_allclose(resize_to_input(network, images), np.transpose(expected, (0, 3, 1, 2)), atol=1e-6)


def test_maps_of_a_subclassed_model_in_channels_first_are_rejected():
    class Network(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(4, 3, data_format="channels_first")

        def call(self, images):
            return {"logits": keras.ops.mean(images, (2, 3)), "maps": images}

        def compute_output_spec(self, images, **options):
            return {"logits": keras.KerasTensor((None, 3)), "maps": images}

    network = Network()
    network.build((None, 3, 8, 8))
    with pytest.raises(ValueError, match="channels_first"):
        Tapped(network, ["maps"])
    assert Tapped(network, ["logits"]).specs["logits"].shape == (None, 3)


# ---- teachers that are no Keras models


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    network, path = convolutional(7, name="teacher"), str(tmp_path_factory.mktemp("export"))
    network.export(path, verbose=False)
    return network, path


def test_a_saved_model_teaches_as_its_network_does(exported):
    network, path = exported
    expected = np.array(network(X))
    loaded = tf.saved_model.load(path)
    endpoints = [layers.TFSMLayer(path, call_endpoint=name) for name in ("serve", "serving_default")]
    wrapped = keras.Sequential([keras.Input(SHAPE), endpoints[1]])
    for teacher in (loaded, *endpoints, wrapped):
        np.testing.assert_allclose(Teacher(teacher).tapped(["logits"])(X)["logits"], expected, rtol=1e-5, atol=1e-6)
    distiller = compiled(Distiller(student=convolutional(), teacher=loaded, methods=[KD()]))
    assert np.isfinite(distiller.fit(X, Y, verbose=0).history["kd"]).all()


def test_a_built_layer_and_a_model_of_tf_keras_teach():
    dense = layers.Dense(3)
    dense.build((None, 4))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(Teacher(dense).tapped(["logits"])(x)["logits"], dense(x), rtol=1e-6)

    class Earlier:  # what matters of a model of tf_keras, which is no class of Keras 3
        name, input_shape = "earlier", (None, 4)

        def __call__(self, inputs, training=None):
            assert training is False
            return dense(inputs)

    np.testing.assert_allclose(Teacher(Earlier()).tapped(["logits"])(x)["logits"], dense(x), rtol=1e-6)


@pytest.mark.parametrize(
    "teacher, error, advice",
    [
        ("runs/teacher.keras", TypeError, "keras.saving.load_model"),
        (lambda images: images, TypeError, "keras.layers.Lambda"),
        (layers.Dense(3), ValueError, r"keras.Input\(shape\), layer"),
        ({"a": 1}, TypeError, "dict"),
        (np.zeros(10**6), TypeError, r"shape \(1000000,\)"),
    ],
)
def test_a_teacher_of_another_kind_is_rejected_in_one_sentence(teacher, error, advice):
    with pytest.raises(error, match=f"^Expected a built Keras model.*{advice}"):
        Distiller(student=convolutional(), teacher=teacher, methods=[KD()])


# ---- a student made of its teacher


def test_a_student_that_would_train_its_teacher_is_rejected():
    teacher = convolutional()
    with pytest.raises(ValueError, match="the student itself"):
        Distiller(student=teacher, teacher=teacher, methods=[KD()])
    head = layers.Dense(CLASSES)(teacher.get_layer("pool").output)
    student = keras.Model(teacher.input, head)
    with pytest.raises(ValueError, match="share 4 variables, of the layers 'conv1', 'conv2'"):
        Distiller(student=student, teacher=[convolutional(), teacher], methods=[KD()])


def test_a_student_on_frozen_layers_of_its_teacher_leaves_it_unchanged():
    teacher = convolutional(normalized=True)
    head = layers.Dense(CLASSES)(teacher.get_layer("pool").output)
    student = keras.Model(teacher.input, head)
    teacher.get_layer("bn1").trainable = teacher.get_layer("conv1").trainable = False
    with pytest.raises(ValueError, match="of the layers 'conv2', 'bn2'"):
        Distiller(student=student, teacher=teacher, methods=[KD()])
    teacher.trainable = False
    before = values(teacher.variables)
    compiled(Distiller(student=student, teacher=teacher, methods=[KD()])).fit(X, Y, verbose=0)
    assert same(before, values(teacher.variables))
