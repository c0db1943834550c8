"""LD against NumPy in float64."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.contracts import TapSpec
from kd_keras.detection.adaptive_matching import valuable_region
from kd_keras.detection.boxes import convert_boxes
from kd_keras.methods import LD, ld_loss
from kd_keras.networks.specs import Specs
from tests.support.detectors import plain_gfl, random_boxes, varied_detector
from tests.support.networks import CLASSES
from tests.support.reference import Case, log_softmax, random

student = teacher = functools.partial(plain_gfl, classes=CLASSES)  # networks for the harness
labels = functools.partial(random_boxes, classes=CLASSES)


def reference(student, teacher, weight, temperature=10.0):
    """An edge at a time."""
    losses = np.zeros(len(student))
    for b, n, edge in np.ndindex(*student.shape[:3]):
        log_s, log_t = (log_softmax(side[b, n, edge] / temperature) for side in (student, teacher))
        losses[b] += weight[b, n] * temperature**2 * np.mean(np.exp(log_t) * (log_t - log_s)) / 4
    return losses


WEIGHT = np.random.default_rng(4).uniform(0, 1, (3, 5)).astype("float32") * [1, 0, 1, 1, 0]
CASES = [
    Case("published", ld_loss, reference, random(3, 5, 4, 17, seed=0), (random(3, 5, 4, 17, seed=1), WEIGHT)),
    Case(
        "temperature 2",
        functools.partial(ld_loss, temperature=2.0),
        functools.partial(reference, temperature=2.0),
        random(3, 5, 4, 8, seed=2),
        (random(3, 5, 4, 8, seed=3), WEIGHT),
    ),
]


def test_the_loss_is_zero_at_the_teacher():
    logits = random(3, 5, 4, 17)
    np.testing.assert_allclose(ld_loss(logits, logits, WEIGHT), np.zeros(3), atol=1e-6)


@pytest.mark.parametrize("region_weight", [1.0, 0.0])
def test_positions_of_objects_and_the_region_around_them_count(region_weight):
    shape, label = (32, 32, 3), random_boxes(4, 3)
    options = {"head": "gfl", "pyramid": (2, 3), "depth": 1}
    student = varied_detector("resnet8", shape, 3, width=8, **options)
    teacher = varied_detector("mobilenet_v2", shape, 3, seed=1, width=12, **options)
    images = np.random.default_rng(0).uniform(0, 255, (4, *shape)).astype("float32")
    method = LD(region_weight=region_weight)
    distiller = Distiller(student=student, teacher=teacher, methods=[method], hard_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    outputs, targets = student(images, training=True), teacher(images, training=False)
    outputs, targets = ({k: np.asarray(v, "float64") for k, v in side.items()} for side in (outputs, targets))
    data = tf.data.Dataset.from_tensors((images, label))
    logged = distiller.fit(data, verbose=0, shuffle=False).history["ld"][0]
    matched = student.targets(label).is_positive.numpy()
    boxes = convert_boxes(label["boxes"], "rel_yxyx", "xyxy", shape[:2])
    region = valuable_region(student.anchors, [64, 16], boxes, label["classes"]).numpy()
    assert matched[1].sum() == 0 == region[1].sum() and matched.sum() > 5 < (region > 0).sum()
    weight = matched / (1 + np.exp(-outputs["class_logits"].max(-1))) + region_weight / 4 * region
    expected = reference(outputs["box_logits"], targets["box_logits"], weight)
    assert expected[1] == 0 and logged == pytest.approx(expected.mean(), rel=1e-3)
    with pytest.raises(ValueError, match='labels with "boxes".*none'):
        distiller.fit(images, verbose=0)


def specs(positions=9, edges=(4, 17), classes=3):
    return Specs(
        {"class_logits": TapSpec("c", (None, positions, classes)), "box_logits": TapSpec("b", (None, 9, *edges))}
    )


@pytest.mark.parametrize(
    "sides, expected",
    [
        ((specs(), specs(edges=(4, 8))), "same positions and bins"),
        ((specs(edges=(68,)), specs(edges=(68,))), "same positions and bins"),
        ((specs(positions=8), specs(positions=8)), "same positions as the edges"),
        ((specs(), specs()), "student with head='gfl'"),
    ],
)
def test_taps_that_do_not_fit_raise(sides, expected):
    with pytest.raises(ValueError, match=expected):
        LD().bind(*sides)


def test_one_tap_raises():
    with pytest.raises(ValueError, match="class logits and the logits of box edges"):
        LD(student_tap="box_logits", teacher_tap="box_logits").bind(specs(), specs())


@pytest.mark.parametrize("wrong", [{"region_weight": -1}, {"temperature": 0}])
def test_invalid_arguments_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LD(**wrong)
