"""CrossKD against NumPy in float64, and through the heads of a teacher."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, Teacher
from kd_keras.contracts import Batch, TapSpec
from kd_keras.methods import CrossKD, align_statistics, crosskd_box_loss, crosskd_edge_loss, crosskd_loss
from kd_keras.networks.specs import Specs
from kd_keras.networks.taps import Tapped
from tests.support.boxes import moved_box, overlap
from tests.support.detectors import plain_gfl, random_boxes, varied_detector
from tests.support.networks import CLASSES
from tests.support.reference import Case, log_softmax, random

OPTIONS = {"CrossKD": {"head": "gfl"}}
student = teacher = functools.partial(plain_gfl, classes=CLASSES)  # networks for the harness
labels = functools.partial(random_boxes, classes=CLASSES)
WEIGHT = np.random.default_rng(4).uniform(0, 1, (3, 5)).astype("float32") * np.array([1, 0, 1, 1, 0], "float32")
SHAPE = (32, 24, 3)
BRANCHES = ("class", "box")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def score_reference(student, teacher, weight):
    """A class of a position at a time."""
    total = np.zeros(len(student))
    for b, n, k in np.ndindex(*student.shape):
        p, q = sigmoid(student[b, n, k]), sigmoid(teacher[b, n, k])
        total[b] += weight[b, n] * abs(q - p) * -(q * np.log(p) + (1 - q) * np.log(1 - p))
    return total


def box_reference(student, teacher, weight):
    total = np.zeros(len(student))
    for b, n in np.ndindex(*student.shape[:2]):
        total[b] += weight[b, n] * (1 - overlap(moved_box(student[b, n]), moved_box(teacher[b, n]))[1])
    return total


def edge_reference(student, teacher, weight):
    total = np.zeros(len(student))
    for b, n, edge in np.ndindex(*student.shape[:3]):
        log_s, log_t = log_softmax(student[b, n, edge]), log_softmax(teacher[b, n, edge])
        total[b] += weight[b, n] * (np.exp(log_t) * (log_t - log_s)).sum() / 4
    return total


def aligned_reference(student, teacher):
    """A channel at a time."""
    maps = np.zeros(student.shape)
    for c in range(student.shape[-1]):
        s, t = student[..., c], teacher[..., c]
        maps[..., c] = (s - s.mean()) / (s.std(ddof=1) + 1e-6) * t.std(ddof=1) + t.mean()
    return maps


CASES = [
    Case("scores", crosskd_loss, score_reference, random(3, 5, 4), (random(3, 5, 4, seed=1), WEIGHT), 1e-6),
    Case(
        "boxes",
        crosskd_box_loss,
        box_reference,
        random(3, 5, 4, scale=0.4),
        (random(3, 5, 4, seed=1, scale=0.4), WEIGHT),
        1e-6,
    ),
    Case("edges", crosskd_edge_loss, edge_reference, random(3, 5, 4, 9), (random(3, 5, 4, 9, seed=1), WEIGHT)),
    Case(
        "statistics",
        lambda s, t: tf.reduce_sum(align_statistics(s, t) ** 3, (1, 2, 3)),
        lambda s, t: (aligned_reference(s, t) ** 3).sum((1, 2, 3)),
        random(3, 4, 5, 2),
        (random(3, 4, 5, 2, seed=1),),
    ),
]


def run_rest(network, maps):
    """The rest of a detector's heads after the maps of levels 2 and 3, layer by layer in inference."""
    rows = {}
    for branch in BRANCHES:
        outputs = []
        for level in (2, 3):
            x = network.get_layer(f"{branch}_conv2")(tf.nn.relu(maps[branch, level]))
            x = tf.nn.relu(network.get_layer(f"{branch}_conv2_p{level}_bn")(x, training=False))
            outputs.append(network.get_layer(f"{branch}_predictions")(x).numpy().astype("float64"))
        rows[branch] = outputs
    return rows


def taps_of(network, images, training):
    names = {(branch, level): f"{branch}_conv1_p{level}_bn" for branch in BRANCHES for level in (2, 3)}
    _, taps = Tapped(network, names.values())(images, training=training)
    return {key: taps[name].numpy().astype("float64") for key, name in names.items()}


@pytest.mark.parametrize("head", ["retinanet", "gfl"])
def test_the_teachers_head_reads_the_students_maps(head):
    options = {"head": head, "pyramid": (2, 3), "width": 8, "depth": 2, "anchor_scale": 2.0}
    student = varied_detector("resnet8", SHAPE, 3, **options)
    teacher = varied_detector("mobilenet_v2", SHAPE, 3, seed=1, **options)
    label, images = random_boxes(4, 3), np.random.default_rng(0).uniform(0, 255, (4, *SHAPE)).astype("float32")
    before = [np.array(variable) for variable in teacher.variables]
    own, targets = taps_of(student, images, True), taps_of(teacher, images, False)
    rest = run_rest(teacher, {k: aligned_reference(own[k], targets[k]).astype("float32") for k in own})
    shapes = {"class": (4, -1, 3), "box": (4, -1, 4) if head == "retinanet" else (4, -1, 4, 17)}
    own_rows = {k: np.concatenate([x.reshape(shapes[k]) for x in rest[k]], 1) for k in BRANCHES}
    logits, boxes = (np.array(x, "float64") for x in teacher(images).values())
    matched = student.targets(label)
    counted, positives = ~matched.is_ignored.numpy(), matched.is_positive.numpy().sum()
    weight = counted * sigmoid(logits).max(-1)
    expected = score_reference(own_rows["class"], logits, counted).sum() / positives
    if head == "retinanet":
        expected += box_reference(own_rows["box"], boxes, weight).sum() / positives
    else:
        expected += 4 * edge_reference(own_rows["box"], boxes, weight).sum() / max(weight.sum(), 1)
    assert positives > 2
    distiller = Distiller(student=student, teacher=teacher, methods=[CrossKD(head=head)], hard_weight=1)
    distiller.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    data = tf.data.Dataset.from_tensors((images, label))
    logged = distiller.fit(data, verbose=0, shuffle=False).history["crosskd"][0]
    assert logged == pytest.approx(expected, rel=1e-3)
    # The teacher's layers are in the loss, but not among the variables of the Distiller, and do not change.
    assert not {id(v) for v in distiller.variables} & {id(v) for v in teacher.variables}
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.variables, strict=True))


def test_the_heads_of_one_of_several_teachers():
    options = {"pyramid": (2, 3), "width": 8, "depth": 2, "anchor_scale": 2.0}
    student, *teachers = (varied_detector("resnet8", SHAPE, 3, seed=seed, **options) for seed in range(3))
    label, images = random_boxes(4, 3), np.random.default_rng(0).uniform(0, 255, (4, *SHAPE)).astype("float32")
    logged = []
    for teacher, prefix in ((Teacher(teachers), "1:"), (teachers[1], "")):
        taps = [prefix + tap for tap in CrossKD.taps.teacher]
        copy = keras.models.clone_model(student)
        copy.set_weights(student.get_weights())
        distiller = Distiller(student=copy, teacher=teacher, methods=[CrossKD(teacher_tap=taps)], hard_weight=1)
        distiller.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
        history = distiller.fit(tf.data.Dataset.from_tensors((images, label)), verbose=0, shuffle=False).history
        logged.append(history["crosskd"][0])
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)


def specs(width=5, size=4, names=("class", "box")):
    maps = {f"{name}_conv1_p*_bn": [TapSpec(f"{name}_conv1_p2_bn", (None, size, size, width))] for name in names}
    return Specs(maps)


@pytest.mark.parametrize(
    "sides, expected",
    [((specs(), specs(width=6)), "same size and width"), ((specs(), specs()), "student with head='retinanet'")],
)
def test_heads_that_do_not_fit_raise(sides, expected):
    with pytest.raises(ValueError, match=expected):
        CrossKD().bind(*sides)


def test_a_recording_has_no_heads():
    network = plain_gfl(4, CLASSES)
    wanted = CrossKD.taps.student
    recorded = Specs(Tapped(network, wanted).specs)  # the shapes without the network
    method = CrossKD(head="gfl")
    method.bind(Tapped(network, wanted).specs, recorded)
    with pytest.raises(ValueError, match="from a recording"):
        method.call({}, {}, Batch(None), None)
    with pytest.raises(ValueError, match='labels with "boxes"'):
        method.check_batch(Batch(None, np.zeros(3)))


@pytest.mark.parametrize("wrong", [{"head": "yolo"}, {"box_weight": -1}])
def test_invalid_arguments_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CrossKD(**wrong)
