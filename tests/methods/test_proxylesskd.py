"""ProxylessKD against NumPy in float64, and what it needs of both networks."""

import functools
import math

import keras
import numpy as np
import pytest

from kd_keras import Distiller, models
from kd_keras.methods import ProxylessKD, proxylesskd_loss
from tests.support.networks import convolutional, examples
from tests.support.reference import Case, log_softmax, random, unit

LABELS = np.array([0, 3, 1, 1, 2])
CENTERS = random(6, 4, seed=2)


def student(width, **options):
    """A network whose embedding is as wide as that of the harness's teacher."""
    del width
    return convolutional(6, **options)


def reference(student, teacher, labels, head="arcface", scale=64.0, margin=0.5):
    logits = scale * unit(student) @ unit(teacher, axis=0)
    for row, label in zip(logits, labels, strict=True):
        angle = math.acos(row[label] / scale)
        moved = math.cos(angle + margin) if angle + margin < math.pi else math.cos(angle) - margin * math.sin(margin)
        row[label] = scale * (moved if head == "arcface" else math.cos(angle) - margin)
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def case(head, margin):
    loss = functools.partial(proxylesskd_loss, teacher=CENTERS, head=head)
    expected = functools.partial(reference, teacher=CENTERS, head=head, margin=margin)

    def by_labels(function):
        return lambda student, labels: function(student, labels=labels)

    return Case(head, by_labels(loss), by_labels(expected), random(5, 6, seed=1), (LABELS,), 1e-5)


CASES = [case("arcface", 0.5), case("cosface", 0.35)]


def test_the_student_reaches_the_teachers_centers():
    keras.utils.set_random_seed(0)
    teacher = convolutional(6, name="teacher")
    teacher = models.recognizer(keras.Model(teacher.input, teacher.get_layer("pool").output), 3)
    network = convolutional(6)
    network = keras.Model(network.input, keras.layers.Dense(12, name="last")(network.get_layer("pool").output))
    method = ProxylessKD(scale=8.0, margin=0.1)
    distiller = Distiller(student=models.recognizer(network, 3), teacher=teacher, methods=[method], hard_weight=0)
    distiller.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    images, _ = examples(12)
    labels = np.arange(12) % 3
    distiller.fit(images, labels, epochs=40, batch_size=12, verbose=0)
    np.testing.assert_array_equal(method.centers, teacher.head.centers)
    cosines = unit(np.array(network(images), "float64")) @ unit(np.array(teacher.head.centers, "float64"), axis=0)
    assert (cosines.argmax(-1) == labels).mean() > 0.8


def test_what_does_not_fit_raises():
    with pytest.raises(ValueError, match=r"(?s)one width.*'pool'.*dimension="):
        Distiller(student=convolutional(4), teacher=convolutional(6), methods=[ProxylessKD()])
    distiller = Distiller(student=convolutional(6), teacher=convolutional(6), methods=[ProxylessKD()], hard_weight=0)
    distiller.compile("sgd", jit_compile=False)
    with pytest.raises(ValueError, match="labels"):
        distiller.fit(examples()[0], verbose=0)
    classes = distiller.teacher.networks[0].output_shape[-1]
    with pytest.raises(
        ValueError, match=rf"labels from 0 to {classes - 1} for the teacher's identities.* to {classes}"
    ):
        distiller.fit(examples(3)[0], np.array([0, 1, classes]), verbose=0)
    with pytest.raises(ValueError, match="arcface"):
        ProxylessKD(head="adaface")
