"""Matching against loops in NumPy."""

import numpy as np
import pytest

from kd_keras.detection.anchors import make_anchors
from kd_keras.detection.matching import BACKGROUND, IGNORED, match_anchors
from tests.support.boxes import overlap

ANCHORS = make_anchors([(6, 6), (3, 3)], [4, 8], scale=2.0)


def objects(seed, batch=3, count=6):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 24, (batch, count, 2, 2))
    boxes = np.concatenate([corners.min(2), corners.max(2)], -1).astype("float32")
    classes = random.integers(0, 4, (batch, count))
    classes[0, 3:] = -1
    classes[1] = -1  # no objects at all
    return boxes, classes


def reference(anchors, boxes, classes, positive=0.5, negative=0.4):
    """The number of each anchor's object, one image and one anchor at a time."""
    anchors = anchors.astype("float64")
    numbers = np.full((len(boxes), len(anchors)), BACKGROUND)
    for image, (image_boxes, image_classes) in enumerate(zip(boxes.astype("float64"), classes, strict=True)):
        present = [m for m in range(len(image_classes)) if image_classes[m] >= 0]
        table = {m: np.array([overlap(anchor, image_boxes[m])[0] for anchor in anchors]) for m in present}
        for n in range(len(anchors)):
            if not present:
                continue
            nearest = max(present, key=lambda m: table[m][n])
            value = table[nearest][n]
            numbers[image, n] = nearest if value >= positive else BACKGROUND if value < negative else IGNORED
            best_of = [m for m in present if table[m][n] > 0 and table[m][n] >= table[m].max() - 1e-6]
            if best_of:
                numbers[image, n] = max(best_of, key=lambda m: table[m][n])
    return numbers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limits", [{}, {"positive": 0.35, "negative": 0.2}], ids=str)
def test_matching_is_that_of_the_loops(seed, limits):
    boxes, classes = objects(seed)
    targets = match_anchors(ANCHORS, boxes, classes, **limits)
    expected = reference(ANCHORS, boxes, classes, **limits)
    np.testing.assert_array_equal(targets.number, expected)
    assert (expected >= 0).any() and (expected == BACKGROUND).any() and (expected == IGNORED).any()
    for image, anchor in zip(*np.nonzero(expected >= 0), strict=True):
        row = expected[image, anchor]
        np.testing.assert_array_equal(targets.boxes[image, anchor], boxes[image, row])
        assert int(targets.classes[image, anchor]) == classes[image, row]


def test_every_object_has_an_anchor_and_an_empty_image_none():
    tiny = np.array([[[10.0, 10.0, 11.0, 11.0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    targets = match_anchors(ANCHORS, tiny, [[2, -1], [-1, -1]])
    assert targets.is_positive.numpy().sum(1)[0] > 0 and set(targets.number.numpy()[1]) == {BACKGROUND}
