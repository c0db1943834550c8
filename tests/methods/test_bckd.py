"""BCKD against NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, models
from kd_keras.contracts import Batch, Outputs, TapSpec
from kd_keras.methods import BCKD, bckd_box_loss, bckd_loss
from tests.support.boxes import moved_box, overlap
from tests.support.reference import Case, random

OPTIONS = {"BCKD": {"student_tap": "logits", "teacher_tap": "logits"}}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def reference(student, teacher):
    """A class of a position at a time."""
    total = np.zeros(len(student))
    for place in np.ndindex(*student.shape):
        p, q = sigmoid(student[place]), sigmoid(teacher[place])
        total[place[0]] += abs(q - p) * -(q * np.log(p) + (1 - q) * np.log(1 - p))
    return total


def box_reference(student, teacher, student_logits, teacher_logits):
    total = np.zeros(len(student))
    for b, n in np.ndindex(*student.shape[:2]):
        weight = np.abs(sigmoid(teacher_logits[b, n]) - sigmoid(student_logits[b, n])).max()
        total[b] += weight * (1 - overlap(moved_box(student[b, n]), moved_box(teacher[b, n]))[1])
    return total


CASES = [
    Case("classes", bckd_loss, reference, random(4, 6, 3, seed=0), (random(4, 6, 3, seed=1),)),
    Case("a map", bckd_loss, reference, random(3, 2, 3, 4, seed=2), (random(3, 2, 3, 4, seed=3),)),
    Case(
        "boxes",
        bckd_box_loss,
        box_reference,
        random(3, 5, 4, seed=4, scale=0.4),
        (random(3, 5, 4, seed=5, scale=0.4), random(3, 5, 2, seed=6), random(3, 5, 2, seed=7)),
        step=1e-6,
    ),
]


def detector(seed, width):
    keras.utils.set_random_seed(seed)
    network = models.build("detector/resnet8", (24, 24, 3), 2, pyramid=(2, 3), width=width, depth=1)
    for name, scale in (("class", 0.5), ("box", 0.05)):  # untrained heads predict nearly the same everywhere
        head = network.get_layer(f"{name}_predictions")
        head.pointwise_kernel.assign(random(*head.pointwise_kernel.shape, seed=seed, scale=scale))
    return network


def test_two_detectors_are_compared_at_every_anchor():
    student, teacher = detector(0, 8), detector(1, 12)
    images = np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3)).astype("float32")
    distiller = Distiller(student=student, teacher=teacher, methods=[BCKD()], hard_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    outputs, targets = student(images, training=True), teacher(images, training=False)
    outputs, targets = ({k: np.asarray(v, "float64") for k, v in side.items()} for side in (outputs, targets))
    logged = distiller.fit(tf.data.Dataset.from_tensors(images), verbose=0, shuffle=False).history["bckd"][0]
    logits = outputs["class_logits"], targets["class_logits"]
    total = reference(*logits).sum() + 4 * box_reference(outputs["box_deltas"], targets["box_deltas"], *logits).sum()
    assert logged == pytest.approx(total / sigmoid(logits[1]).max(-1).sum(), rel=1e-3)


def test_a_teacher_that_sees_nothing_is_not_divided_by_zero():
    logits = np.full((2, 3, 1), -400.0, "float32")
    loss = BCKD(student_tap="a", teacher_tap="a").call(
        Outputs({"a": np.zeros((2, 3, 1), "float32")}), Outputs({"a": logits}), Batch(logits), None
    )
    assert float(loss) == pytest.approx(6 * 0.5 * np.log(2), rel=1e-5)  # the confidence counts as 1


def test_the_loss_is_zero_at_the_teacher():
    logits, deltas = random(3, 4, 2), random(3, 4, 4)
    np.testing.assert_array_equal(bckd_loss(logits, logits), np.zeros(3))
    np.testing.assert_array_equal(bckd_box_loss(deltas, deltas, logits, logits), np.zeros(3))


@pytest.mark.parametrize(
    "shapes, expected",
    [
        ([((9, 3), (8, 3))], "same anchors and classes"),
        ([((9, 3), (9, 2))], "same anchors and classes"),
        ([((9, 3), (9, 3)), ((9, 5), (9, 5))], r"box offsets \(B, N, 4\)"),
        ([((9, 3), (9, 3))] * 3, "3 taps"),
    ],
)
def test_taps_that_do_not_fit_raise(shapes, expected):
    names = [f"tap{number}" for number in range(len(shapes))]
    sides = [
        {name: TapSpec(name, (None, *pair[side])) for name, pair in zip(names, shapes, strict=True)} for side in (0, 1)
    ]
    with pytest.raises(ValueError, match=expected):
        BCKD(student_tap=names, teacher_tap=names).bind(*sides)


def test_an_invalid_weight_raises():
    with pytest.raises(ValueError, match="box_weight"):
        BCKD(box_weight=-1)
