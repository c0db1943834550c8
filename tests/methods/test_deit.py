"""DeiT against NumPy in float64, and a student with two heads."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller, models
from kd_keras.methods import DeiT, deit_loss
from tests.support.networks import CLASSES, SHAPE, compiled, convolutional
from tests.support.reference import Case, log_softmax, random, softmax


def student(width, classes=CLASSES, normalized=True):
    """A network with a head for the labels and one for the teacher, which it averages."""
    inputs = keras.Input(SHAPE, name="image")
    x = keras.layers.Conv2D(width, 3, strides=2, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x) if normalized else x
    x = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.ReLU(name="stage1_out")(x))
    heads = [keras.layers.Dense(classes, name=name)(x) for name in ("class_head", "distillation_head")]
    return keras.Model(inputs, models.base.MeanOfPredictions(name="mean_of_predictions")(heads))


def reference(student, teacher, labels, form="hard", share=0.5, temperature=3.0):
    """An example at a time, by the definitions."""
    losses = []
    for z_class, z_distillation, z_teacher, y in zip(*student, teacher, labels, strict=True):
        y = np.eye(len(z_class))[int(y)] if np.ndim(y) == 0 else y
        of_labels = -(y * log_softmax(z_class)).sum()
        if form == "hard":
            of_teacher = -log_softmax(z_distillation)[np.argmax(z_teacher)]
        else:
            p, q = softmax(z_teacher / temperature), softmax(z_distillation / temperature)
            of_teacher = temperature**2 * (p * np.log(p / q)).sum()
        losses.append((1 - share) * of_labels + share * of_teacher)
    return np.array(losses)


def case(name, mixed=False, **settings):
    heads = [random(6, 7, seed=seed, scale=2.0) for seed in (1, 2)]
    labels = np.array([0, 6, 3, 3, 1, 2])
    if mixed:
        labels = (0.3 * np.eye(7)[labels] + 0.7 * np.eye(7)[labels[::-1]]).astype("float32")
    functions = (functools.partial(function, **settings) for function in (deit_loss, reference))
    return Case(name, *functions, heads, (random(6, 7, seed=3, scale=2.0), labels))


CASES = [
    case("hard"),
    case("hard, mixed labels", mixed=True, share=0.3),
    case("soft", form="soft", share=0.1),
    case("soft, temperature 1", form="soft", temperature=1.0),
]


def test_the_value_of_the_hard_loss_by_hand():
    """Half of log 4 for the label of a head without knowledge, half of log(1 + 3 / e^2) for a right other head."""
    heads = [np.zeros((1, 4), "float32"), np.array([[0, 2, 0, 0]], "float32")]
    teacher = np.array([[0.1, 0.2, 0.0, -1.0]], "float32")
    expected = (np.log(4) + np.log(1 + 3 * np.exp(-2))) / 2
    assert float(deit_loss(heads, teacher, np.array([3]))[0]) == pytest.approx(expected, rel=1e-6)


def test_the_published_shares_are_the_defaults():
    assert (DeiT().share, DeiT(form="soft").share, DeiT(share=0.2).share) == (0.5, 0.1, 0.2)
    assert DeiT().published_hard_weight == 0.0
    for arguments, message in (
        ({"share": 1.5}, "at most 1"),
        ({"form": "warm"}, "form"),
        ({"temperature": 0}, "T|t"),
    ):
        with pytest.raises(ValueError, match=message):
            DeiT(**arguments)


def test_the_student_needs_two_heads_of_the_classes():
    with pytest.raises(ValueError, match="no tap 'class_head'"):
        Distiller(student=convolutional(), teacher=convolutional(), methods=[DeiT()])
    with pytest.raises(ValueError, match="logits of the same classes"):
        Distiller(student=student(4, classes=CLASSES + 1), teacher=convolutional(), methods=[DeiT()])
    with pytest.raises(ValueError, match="two heads of the student"):
        Distiller(student=student(4), teacher=convolutional(), methods=[DeiT(student_tap="logits")])


def test_each_head_follows_its_own_target():
    """Labels that contradict the teacher: the class head learns the labels, the other one the teacher."""
    keras.utils.set_random_seed(0)
    network, rng = student(6), np.random.default_rng(0)
    images = rng.uniform(0, 255, (16, *SHAPE)).astype("float32")
    inputs = keras.Input(SHAPE)
    always_1 = keras.layers.Dense(CLASSES, kernel_initializer="zeros")
    teacher = keras.Model(inputs, always_1(keras.layers.GlobalAveragePooling2D()(inputs)))
    always_1.bias.assign(5 * np.eye(CLASSES)[1])
    distiller = Distiller(student=network, teacher=teacher, methods=[DeiT()])
    distiller.compile(optimizer=keras.optimizers.Adam(0.05))
    distiller.fit(images, np.full(16, 2), epochs=20, batch_size=16, verbose=0)
    heads = keras.Model(network.input, [network.get_layer(f"{name}_head").output for name in ("class", "distillation")])
    for logits, expected in zip(heads(images), (2, 1), strict=True):
        assert np.all(np.argmax(logits, -1) == expected)


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_a_teacher_of_one_unit_teaches_as_its_two_classes(form):
    teacher = convolutional(classes=1)
    two = keras.Model(teacher.input, keras.layers.Lambda(lambda z: keras.ops.pad(z, ((0, 0), (1, 0))))(teacher.output))
    network, images = student(4, classes=2), np.random.default_rng(0).normal(size=(6, *SHAPE)).astype("float32")
    losses = []
    for source in (teacher, two):
        distiller = Distiller(student=network, teacher=source, methods=[DeiT(form=form)])
        compiled(distiller, optimizer=keras.optimizers.SGD(0.0), run_eagerly=True)
        losses.append(distiller.train_on_batch(images, np.arange(6) % 2, return_dict=True)["deit"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
