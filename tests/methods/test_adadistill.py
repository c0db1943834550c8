"""AdaDistill against NumPy in float64, example by example, and its centers on two replicas."""

import functools
import math

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.methods import AdaDistill, adadistill_loss
from kd_keras.methods.adadistill import adadistill_centers
from tests.support.networks import CLASSES, convolutional, examples, mirrored
from tests.support.reference import Case, log_softmax, random, unit

OPTIONS = {"AdaDistill": {"classes": CLASSES, "scale": 8.0}}
LABELS = np.array([0, 3, 1, 1, 2])


def student(width, **options):
    """A network whose embedding is as wide as that of the harness's teacher."""
    del width
    return convolutional(6, **options)


def moved_centers(student, teacher, labels, centers):
    """By the definition, with the mean over the examples of an identity."""
    result = np.array(centers, "float64")
    for k in set(labels.tolist()):
        rows = []
        for e_s, e_t in zip(unit(student[labels == k]), unit(teacher[labels == k]), strict=True):
            near = min(max(unit(centers[k]) @ e_t, 1e-6), 1)
            a = min(max(e_s @ e_t * near, 1e-6), 1)
            rows.append(a * centers[k] + (1 - a) * e_t)
        result[k] = np.mean(rows, axis=0)
    return result


class Reference:
    """The loss against the centers after the batch, which are constants for the gradient."""

    def __init__(self, student, teacher, centers, head, margin):
        self.centers = moved_centers(*(x.astype("float64") for x in (student, teacher)), LABELS, centers)
        self.head, self.margin = head, margin

    def __call__(self, student, teacher, labels, centers):
        logits = 64 * unit(student) @ unit(self.centers).T
        for row, label in zip(logits, labels, strict=True):
            angle = math.acos(row[label] / 64)
            cosine = math.cos(angle + self.margin) if self.head == "arcface" else math.cos(angle) - self.margin
            row[label] = 64 * cosine
        return -log_softmax(logits)[np.arange(len(labels)), labels]


def case(head, margin):
    student, teacher = random(5, 6, seed=1), random(5, 6, seed=2)
    centers = random(4, 6, seed=3)
    expected = Reference(student, teacher, centers, head, margin)
    others = (teacher, LABELS, centers)
    return Case(head, functools.partial(adadistill_loss, head=head), expected, student, others, 1e-5)


CASES = [case("arcface", 0.45), case("cosface", 0.35)]


def test_the_centers_by_their_definition():
    student, teacher, centers = random(5, 6, seed=4), random(5, 6, seed=4) + random(5, 6, seed=5), random(4, 6, seed=6)
    expected = moved_centers(student, teacher, LABELS, centers.astype("float64"))
    np.testing.assert_allclose(adadistill_centers(student, teacher, LABELS, centers), expected, atol=1e-6)


def test_only_the_identities_of_the_batch_move():
    centers = random(4, 6, seed=6)
    after = np.array(adadistill_centers(random(2, 6), random(2, 6, seed=1), np.array([2, 7]), centers))
    np.testing.assert_array_equal(after[[0, 1, 3]], centers[[0, 1, 3]])
    assert np.abs(after[2] - centers[2]).max() > 0.1


def test_all_replicas_have_the_same_centers():
    images, labels = examples(24)
    centers = []
    for count in (1, 2):
        keras.utils.set_random_seed(0)
        with mirrored(count).scope():
            method = AdaDistill(classes=CLASSES, scale=8.0)
            distiller = Distiller(student=convolutional(6), teacher=convolutional(6), methods=[method], hard_weight=0)
            distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        distiller.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        centers.append(np.array(method.centers))
    np.testing.assert_allclose(*centers, atol=1e-5)


def test_labels_beyond_the_identities_raise():
    method = AdaDistill(classes=3)
    distiller = Distiller(student=convolutional(6), teacher=convolutional(6), methods=[method], hard_weight=0)
    distiller.compile("sgd", jit_compile=False)
    images, labels = examples()
    with pytest.raises(ValueError, match=r"0 to 2.*classes=3.*0 to 4"):
        distiller.fit(images, labels, verbose=0)
