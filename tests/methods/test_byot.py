"""BYOT against NumPy in float64, and what each exit learns from."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Batch, Distiller, Step
from kd_keras.methods import BYOT, byot_features_loss, byot_loss
from tests.support.networks import CLASSES, SHAPE, compiled, convolutional, examples, values
from tests.support.reference import Case, log_softmax, random


def reference(student, teacher, labels, alpha=0.3, temperature=3.0):
    total = np.zeros(len(teacher))
    for logits in student:
        for row, (z, t) in enumerate(zip(logits, teacher, strict=True)):
            log_s, log_t = log_softmax(z / temperature), log_softmax(t / temperature)
            divergence = (np.exp(log_t) * (log_t - log_s)).sum()
            truth = labels[row] if labels.ndim > 1 else np.eye(len(z))[labels[row]]
            total[row] += (1 - alpha) * -(truth * log_softmax(z)).sum() + alpha * temperature**2 * divergence
    return total


def features(student, teacher):
    return sum(np.linalg.norm(vectors - teacher, axis=-1) for vectors in student)


LABELS = np.arange(6) % 4
LOGITS, TEACHER = [random(6, 4, seed=1, scale=3), random(6, 4, seed=2)], random(6, 4, seed=3, scale=3)
SOFT = np.full((6, 4), 0.25, "float32")
VECTORS = [random(6, 8, seed=4), random(6, 8, seed=5)]
CASES = [
    Case("integer labels", byot_loss, reference, LOGITS, (TEACHER, LABELS)),
    Case("probabilities", byot_loss, reference, LOGITS, (TEACHER, SOFT)),
    Case("features", byot_features_loss, features, VECTORS, (random(6, 8, seed=6),)),
]


def student(width=4, normalized=False):
    """Three exits and their mean."""
    x, logits = keras.Input(SHAPE, name="image"), []
    inputs = x
    for number in (1, 2, 3):
        x = layers.Conv2D(number * width, 3)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x) if normalized else x)
        features = layers.GlobalAveragePooling2D(name=f"exit{number}_features")(x)
        logits.append(layers.Dense(CLASSES, name=f"exit{number}")(features))
    return keras.Model(inputs, layers.Average()(logits))


def gradient_reaches(method, teacher=None):
    """The student's exits that a step of the method without other losses changes."""
    net = student()
    distiller = compiled(Distiller(student=net, teacher=teacher, methods=[method], hard_weight=0), metrics=None)
    before = {name: values(net.get_layer(name).weights) for name in ("exit1", "exit2", "exit3")}
    distiller.fit(*examples(), verbose=0)
    return {name for name in before if np.abs(before[name][0] - values(net.get_layer(name).weights)[0]).max() > 0}


def test_the_deepest_exit_learns_from_labels_only():
    assert gradient_reaches(BYOT(alpha=1.0, feature_weight=0)) == {"exit1", "exit2", "exit3"}
    net = student()
    distiller = Distiller(student=net, methods=[BYOT(alpha=1.0, feature_weight=0.0)], hard_weight=0)
    images, labels = examples(4)
    exits = [keras.Model(net.input, net.get_layer(f"exit{number}").output)(images).numpy() for number in (1, 2, 3)]
    for y in (labels, 0 * labels):
        _, taps = distiller._student(images, training=True)
        loss = distiller.methods[0](taps, {}, Batch(images, y), Step(0, 0))
        deepest_loss = -log_softmax(exits[2].astype("float64"))[np.arange(4), y]
        expected = np.mean(reference(exits[:2], exits[2], y, alpha=1.0) + deepest_loss)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("weight", [None, np.array([0.0, 1.0, 2.0, 1.0])])
def test_the_distance_of_features_is_a_norm_over_the_batch_without_the_exit_before_the_deepest(weight):
    """As in the authors' code, whose 0.03 belongs to this norm."""
    distiller = Distiller(student=student(), methods=[BYOT(feature_weight=1.0)], hard_weight=0)
    images, labels = examples(4)
    method, (_, taps) = distiller.methods[0], distiller._student(images, training=True)
    whole = method(taps, {}, Batch(images, labels, weight), Step(0, 0))
    method.feature_weight = 0.0
    rest = method(taps, {}, Batch(images, labels, weight), Step(0, 0))
    kernel, bias = (np.asarray(value, "float64") for value in method.trainable_variables)
    features = {x.shape[-1]: np.asarray(x, "float64") for x in taps["exit?_features"]}
    first, deepest = features[4], features[12]
    squares = np.sum((first @ kernel + bias - deepest) ** 2, axis=1)
    np.testing.assert_allclose(whole - rest, np.sqrt(np.sum(squares * (1 if weight is None else weight))), rtol=1e-5)


def test_every_exit_learns_from_a_teacher():
    teacher = convolutional(6, name="teacher")
    assert gradient_reaches(BYOT(from_teacher=True, alpha=1.0, feature_weight=0), teacher) == {
        "exit1",
        "exit2",
        "exit3",
    }


def test_features_of_another_width_get_a_linear_layer():
    distiller = Distiller(student=student(), methods=[BYOT()])
    assert [tuple(v.shape) for v in distiller.methods[0].trainable_variables] == [(4, 12), (12,)]


def test_invalid_uses_raise():
    with pytest.raises(ValueError, match="alpha"):
        BYOT(alpha=2)
    with pytest.raises(ValueError, match=r"exit\?"):
        Distiller(student=convolutional(), methods=[BYOT()])
    distiller = Distiller(student=student(), methods=[BYOT()], hard_weight=0)
    distiller.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="BYOT needs labels, but the batch has none"):
        distiller.fit(examples()[0], verbose=0)


def test_exits_of_a_single_unit_are_refused():
    inputs = keras.Input(SHAPE)
    maps = layers.Conv2D(4, 3, activation="relu", name="map")(inputs)
    outputs = []
    for number in (1, 2):
        features = layers.GlobalAveragePooling2D(name=f"exit{number}_features")(maps)
        outputs.append(layers.Dense(1, name=f"exit{number}")(features))
    student = keras.Model(inputs, layers.Average()(outputs))
    with pytest.raises(ValueError, match="exits of two or more classes"):
        Distiller(student=student, methods=[BYOT()], hard_weight=0)
