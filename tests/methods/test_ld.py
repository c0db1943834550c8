"""LD against NumPy in float64."""

import functools

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.methods import LD, ld_loss
from tests.support.networks import CLASSES
from tests.support.reference import Case, log_softmax, random

OPTIONS = {"LD": {"student_tap": "logits", "teacher_tap": "logits", "bins": CLASSES}}


def reference(student, teacher, temperature=10.0):
    """An example and an edge at a time."""
    bins = student.shape[-1]
    losses = []
    for s, t in zip(student, teacher, strict=True):
        edges = []
        for student_bins, teacher_bins in zip(s.reshape(-1, bins), t.reshape(-1, bins), strict=True):
            log_s, log_t = log_softmax(student_bins / temperature), log_softmax(teacher_bins / temperature)
            edges.append(temperature**2 * np.mean(np.exp(log_t) * (log_t - log_s)))
        losses.append(np.mean(edges))
    return np.array(losses)


CASES = [
    Case("published", ld_loss, reference, random(4, 3, 2, 4, 17, seed=0), (random(4, 3, 2, 4, 17, seed=1),)),
    Case(
        "one edge, temperature 2",
        functools.partial(ld_loss, temperature=2.0),
        functools.partial(reference, temperature=2.0),
        random(5, 8, seed=2),
        (random(5, 8, seed=3),),
    ),
]


def test_the_loss_is_zero_at_the_teacher():
    np.testing.assert_allclose(ld_loss(random(3, 4, 17), random(3, 4, 17)), np.zeros(3), atol=1e-6)


def detector(name):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, padding="same")(inputs)
    boxes = keras.layers.Conv2D(4 * 3, 1)(x)
    return keras.Model(inputs, {"boxes": boxes, "logits": keras.layers.Conv2D(2, 1)(x)}, name=name)


def test_a_heads_map_is_split_edge_by_edge():
    keras.utils.set_random_seed(0)
    student, teacher = detector("student"), detector("teacher")
    distiller = Distiller(student=student, teacher=teacher, methods=[LD(bins=3)], hard_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    images = random(4, 8, 8, 3)
    logged = distiller.fit(images, verbose=0).history["ld"][0]
    student_bins, teacher_bins = (
        np.array(model(images)["boxes"], "float64").reshape(4, 2, 2, 4, 3) for model in (student, teacher)
    )
    assert logged == pytest.approx(reference(student_bins, teacher_bins).mean(), rel=1e-4)


@pytest.mark.parametrize(
    "student, teacher, expected", [((4, 68), (5, 68), "same positions"), ((4, 60), (4, 60), "17 bins")]
)
def test_taps_that_do_not_fit_raise(student, teacher, expected):
    with pytest.raises(ValueError, match=rf"(?s){expected}.*'s'.*'t'.*(Tap|Pass)"):
        LD().bind({"boxes": TapSpec("s", (None, *student))}, {"boxes": TapSpec("t", (None, *teacher))})


@pytest.mark.parametrize("wrong", [{"bins": 1}, {"bins": 2.5}, {"temperature": 0}])
def test_invalid_arguments_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LD(**wrong)
