"""Quality focal loss, distribution focal loss and boxes from distributions, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras.detection.distributions import boxes_at, distances_of, expected_distances, square_anchors
from kd_keras.detection.matching import BACKGROUND, IGNORED, Targets
from kd_keras.detection.quality_losses import distribution_focal_loss, quality_focal_loss
from tests.support.reference import Case, random, softmax

NUMBERS = np.array([[0, BACKGROUND, 1, IGNORED, BACKGROUND], [BACKGROUND, BACKGROUND, IGNORED, BACKGROUND, BACKGROUND]])
CLASSES = np.array([[2, 1, 0, 0, 0], [0, 1, 2, 0, 0]])
QUALITY = np.random.default_rng(3).uniform(0, 1, NUMBERS.shape).astype("float32")
TARGETS = Targets(tf.constant(NUMBERS, tf.int32), tf.zeros((2, 5, 4)), tf.constant(CLASSES, tf.int32))
DISTANCES = np.array([[0.0, 3.0], [2.6, 1.25], [4.9, 0.5]], "float32")


def quality_reference(logits, beta=2.0):
    """A class of a position at a time."""
    total = np.zeros(len(logits))
    for b, n, k in np.ndindex(*logits.shape):
        if NUMBERS[b, n] == IGNORED:
            continue
        y = float(QUALITY[b, n]) if NUMBERS[b, n] >= 0 and CLASSES[b, n] == k else 0.0
        p = 1 / (1 + np.exp(-logits[b, n, k]))
        total[b] += abs(y - p) ** beta * -(y * np.log(p) + (1 - y) * np.log(1 - p))
    return total


def distribution_reference(logits):
    """Both neighbors of each distance, as the equation has them."""
    losses = np.zeros(DISTANCES.shape)
    for place in np.ndindex(*DISTANCES.shape):
        y, p = float(DISTANCES[place]), softmax(logits[place])
        i = int(np.floor(y))
        losses[place] = -((i + 1 - y) * np.log(p[i]) + (y - i) * np.log(p[i + 1]))
    return losses


CASES = [
    Case(
        "quality",
        lambda z: quality_focal_loss(z, TARGETS, QUALITY),
        quality_reference,
        random(2, 5, 3, scale=2),
        (),
        1e-6,
    ),
    Case(
        "quality, beta 1",
        lambda z: quality_focal_loss(z, TARGETS, QUALITY, beta=1.0),
        lambda z: quality_reference(z, 1.0),
        random(2, 5, 3, seed=1),
        (),
        1e-6,
    ),
    Case(
        "distribution",
        lambda z: distribution_focal_loss(z, DISTANCES),
        distribution_reference,
        random(3, 2, 6, seed=2),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_value_and_gradient_are_those_of_the_reference(case):
    assert case.value_error() < 1e-5 and case.gradient_error() < 1e-5
    for student, _ in case.edges().values():
        if len(student) == len(case.student):
            assert np.isfinite(case.loss(student)).all()
            assert all(np.isfinite(gradient).all() for gradient in case.gradients(student))


def test_a_perfect_score_costs_nothing():
    quality = np.where(NUMBERS >= 0, 0.75, 0.0).astype("float32")
    logits = np.full((2, 5, 3), -100.0, "float32")
    for b, n in zip(*np.nonzero(NUMBERS >= 0), strict=True):
        logits[b, n, CLASSES[b, n]] = np.log(3)  # a probability of 3/4
    np.testing.assert_allclose(quality_focal_loss(logits, TARGETS, quality), 0, atol=1e-9)


def test_boxes_come_back_from_their_distances():
    anchors = square_anchors([(2, 3), (1, 2)], [8, 16], scale=3.0).astype("float64")
    centers, strides = (anchors[:, :2] + anchors[:, 2:]) / 2, np.array([8] * 6 + [16] * 2)[:, None]
    np.testing.assert_array_equal(centers[[0, 2, 5, 7]], [[4, 4], [20, 4], [20, 12], [24, 8]])
    np.testing.assert_array_equal(anchors[:, 2] - anchors[:, 0], 3 * strides[:, 0])
    distances = np.random.default_rng(0).uniform(0, 15, (2, 8, 4)).astype("float32")
    centers, strides = centers.astype("float32"), strides.astype("float32")
    boxes = boxes_at(distances, centers, strides).numpy()
    np.testing.assert_allclose(boxes[1, 7, 0], 24 - 16 * distances[1, 7, 0], rtol=1e-5)
    np.testing.assert_allclose(boxes[0, 2, 3], 4 + 8 * distances[0, 2, 3], rtol=1e-5)
    np.testing.assert_allclose(distances_of(boxes, centers, strides), distances, atol=1e-4)
    far = distances_of(boxes + 1000, centers, strides).numpy()
    np.testing.assert_allclose(far[..., :2], 0)
    np.testing.assert_allclose(far[..., 2:], 15.9)


def test_the_expected_distance_is_the_mean_of_the_bins():
    logits = random(3, 4, 17, scale=3)
    np.testing.assert_allclose(expected_distances(logits), softmax(logits.astype("float64")) @ np.arange(17), rtol=1e-5)
