"""The detector's losses against NumPy in float64: value, gradient, and extreme values."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras.detection.anchors import decode_deltas, make_anchors
from kd_keras.detection.losses import count_positives, focal_loss, giou_loss, smooth_l1_loss
from kd_keras.detection.matching import BACKGROUND, IGNORED, Targets, match_anchors
from tests.support.boxes import moved_box, overlap

ANCHORS = make_anchors([(2, 2)], [8], scale=1.5)
CLASSES = 3
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(2, len(ANCHORS), CLASSES)).astype("float32") * 2
DELTAS = RANDOM.normal(size=(2, len(ANCHORS), 4)).astype("float32") * 0.4


def make_targets():
    boxes = np.array([[[1, 1, 10, 9], [6, 5, 15, 16]], [[0, 0, 16, 12], [0, 0, 0, 0]]], "float32")
    targets = match_anchors(ANCHORS, boxes, [[0, 2], [1, -1]])
    numbers = targets.number.numpy()
    assert {BACKGROUND, IGNORED} < set(numbers.ravel()) and (numbers >= 0).sum(1).min() > 1
    return targets


def focal_reference(logits, targets, alpha=0.25, gamma=2.0):
    losses = np.zeros(len(logits))
    for b, n, k in np.ndindex(*logits.shape):
        number = int(targets.number[b, n])
        if number == IGNORED:
            continue
        p = 1 / (1 + np.exp(-logits[b, n, k]))
        if number >= 0 and int(targets.classes[b, n]) == k:
            losses[b] -= alpha * (1 - p) ** gamma * np.log(p)
        else:
            losses[b] -= (1 - alpha) * p**gamma * np.log(1 - p)
    return losses


def giou_reference(deltas, targets):
    losses = np.zeros(len(deltas))
    for b, n in np.ndindex(*deltas.shape[:2]):
        if int(targets.number[b, n]) < 0:
            continue
        box = moved_box(deltas[b, n], ANCHORS[n].astype("float64"))
        losses[b] += 1 - overlap(box, np.asarray(targets.boxes[b, n], "float64"))[1]
    return losses


def smooth_l1_reference(deltas, targets, beta=1 / 9):
    losses = np.zeros(len(deltas))
    for b, n in np.ndindex(*deltas.shape[:2]):
        if int(targets.number[b, n]) < 0:
            continue
        anchor, box = ANCHORS[n].astype("float64"), np.asarray(targets.boxes[b, n], "float64")
        sides = anchor[2:] - anchor[:2]
        offsets = ((box[:2] + box[2:]) / 2 - (anchor[:2] + anchor[2:]) / 2) / sides
        for d in np.abs(deltas[b, n] - np.concatenate([offsets, np.log((box[2:] - box[:2]) / sides)])):
            losses[b] += d**2 / (2 * beta) if d < beta else d - beta / 2
    return losses


LOSSES = {
    "focal": (focal_loss, focal_reference, LOGITS),
    "focal, other constants": (
        lambda x, targets: focal_loss(x, targets, alpha=0.6, gamma=1.5),
        lambda x, targets: focal_reference(x, targets, alpha=0.6, gamma=1.5),
        LOGITS,
    ),
    "giou": (lambda x, targets: giou_loss(x, ANCHORS, targets), giou_reference, DELTAS),
    "smooth l1": (lambda x, targets: smooth_l1_loss(x, ANCHORS, targets), smooth_l1_reference, DELTAS),
    "smooth l1, beta 1": (
        lambda x, targets: smooth_l1_loss(x, ANCHORS, targets, beta=1.0),
        lambda x, targets: smooth_l1_reference(x, targets, beta=1.0),
        DELTAS,
    ),
}


@pytest.mark.parametrize("loss, reference, array", LOSSES.values(), ids=LOSSES)
def test_value_and_gradient_are_those_of_the_reference(loss, reference, array):
    targets, variable = make_targets(), tf.Variable(array)
    with tf.GradientTape() as tape:
        values = loss(variable, targets)
        total = tf.reduce_sum(values)
    np.testing.assert_allclose(values, reference(array.astype("float64"), targets), rtol=1e-5)
    gradient, step = tape.gradient(total, variable).numpy(), 1e-6
    places = [tuple(place) for place in np.argwhere(np.abs(gradient) > 0)]
    rest = [tuple(place) for place in np.argwhere(gradient == 0)]
    random = np.random.default_rng(1)
    chosen = [group[number] for group in (places, rest) for number in random.permutation(len(group))[:25]]
    expected = []
    for place in chosen:
        values = []
        for sign in (1, -1):
            shifted = array.astype("float64")
            shifted[place] += sign * step
            values.append(reference(shifted, targets).sum())
        expected.append((values[0] - values[1]) / (2 * step))
    actual = np.array([gradient[place] for place in chosen])
    assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-5


def test_without_focusing_it_is_the_weighted_binary_cross_entropy():
    targets = make_targets()
    expected = np.zeros(2)
    for b, n in np.ndindex(2, len(ANCHORS)):
        number = int(targets.number[b, n])
        truth = np.zeros(CLASSES)
        if number >= 0:
            truth[int(targets.classes[b, n])] = 1
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(truth, LOGITS[b, n].astype("float64")).numpy().sum()
        expected[b] += 0 if number == IGNORED else entropy / 2
    np.testing.assert_allclose(focal_loss(LOGITS, targets, alpha=0.5, gamma=0.0), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 400.0])
def test_losses_and_gradients_are_finite(scale):
    targets = make_targets()
    for loss, array in ((focal_loss, LOGITS), (LOSSES["giou"][0], DELTAS), (LOSSES["smooth l1"][0], DELTAS)):
        variable = tf.Variable(array / np.abs(array).max() * scale)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(loss(variable, targets))
        assert np.isfinite(total) and np.isfinite(tape.gradient(total, variable)).all()


def test_a_perfect_box_costs_nothing_and_an_empty_image_has_no_positives():
    targets = match_anchors(ANCHORS, ANCHORS[None, [3]], [[1]])
    exact = Targets(targets.number, decode_deltas(np.zeros((1, len(ANCHORS), 4)), ANCHORS), targets.classes)
    np.testing.assert_allclose(giou_loss(np.zeros((1, len(ANCHORS), 4)), ANCHORS, exact), 0.0, atol=1e-5)
    empty = match_anchors(ANCHORS, np.zeros((1, 2, 4)), [[-1, -1]])
    assert count_positives(empty).numpy().tolist() == [0.0]
    for loss in (giou_loss, smooth_l1_loss):
        with tf.GradientTape() as tape:
            tape.watch(deltas := tf.constant(DELTAS[:1]))
            value = loss(deltas, ANCHORS, empty)
        assert value.numpy().tolist() == [0.0] and not tape.gradient(value, deltas).numpy().any()
    assert float(focal_loss(LOGITS[:1], empty)[0]) > 0
