"""ATSS and the valuable localization region against loops in NumPy."""

import numpy as np
import pytest

from kd_keras.detection.adaptive_matching import match_adaptively, valuable_region
from kd_keras.detection.distributions import square_anchors
from kd_keras.detection.matching import BACKGROUND
from tests.support.boxes import overlap

SIZES = [(6, 5), (3, 3), (1, 2)]
ANCHORS, COUNTS = square_anchors(SIZES, [4, 8, 16], scale=2.0), [h * w for h, w in SIZES]


def objects(seed, batch=4, count=6):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 24, (batch, count, 2, 2))
    boxes = np.concatenate([corners.min(2), corners.max(2)], -1).astype("float32")
    classes = random.integers(0, 4, (batch, count))
    classes[0, 3:] = -1  # padding, here with boxes that would match
    classes[1] = -1  # no objects at all
    return boxes, classes


def center(box):
    return np.array([box[0] + box[2], box[1] + box[3]]) / 2


def distance_iou(box, target):
    hull = [max(box[i + 2], target[i + 2]) - min(box[i], target[i]) for i in (0, 1)]
    return overlap(box, target)[0] - ((center(box) - center(target)) ** 2).sum() / (hull[0] ** 2 + hull[1] ** 2)


def candidates_of(box, candidates):
    """The nearest anchors of each level."""
    chosen, start = [], 0
    for count in COUNTS:
        rows = range(start, start + count)
        chosen += sorted(rows, key=lambda n: ((center(ANCHORS[n].astype("float64")) - center(box)) ** 2).sum())[
            :candidates
        ]
        start += count
    return chosen


def reference(boxes, classes, candidates=9, fraction=0.25):
    """The number of each anchor's object and its weight in the region, one image and one object at a time."""
    anchors = ANCHORS.astype("float64")
    numbers, weights = np.full((len(boxes), len(anchors)), BACKGROUND), np.zeros((len(boxes), len(anchors)))
    for image, row in zip(*np.nonzero(classes >= 0), strict=True):
        box = boxes[image, row].astype("float64")
        chosen = candidates_of(box, candidates)
        ious = np.array([overlap(anchor, box)[0] for anchor in anchors])
        threshold = ious[chosen].mean() + ious[chosen].std(ddof=1)
        margins = [min(*(center(anchor) - box[:2]), *(box[2:] - center(anchor))) for anchor in anchors]
        limit = min([threshold, max([ious[n] for n in chosen if margins[n] > 0.01], default=2)])
        for n in chosen:
            number = numbers[image, n]
            best = -1 if number < 0 else overlap(anchors[n], boxes[image, number].astype("float64"))[0]
            if ious[n] >= limit - 1e-6 and margins[n] > 0.01 and ious[n] > best:
                numbers[image, n] = row
        for n, anchor in enumerate(anchors):
            if fraction * threshold <= distance_iou(anchor, box) < threshold:
                weights[image, n] = max(weights[image, n], ious[n])
    return numbers, weights


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("candidates", [9, 3])
def test_matching_and_region_are_those_of_the_loops(seed, candidates):
    boxes, classes = objects(seed)
    expected, weights = reference(boxes, classes, candidates)
    targets = match_adaptively(ANCHORS, COUNTS, boxes, classes, candidates=candidates)
    np.testing.assert_array_equal(targets.number, expected)
    for image, anchor in zip(*np.nonzero(expected >= 0), strict=True):
        row = expected[image, anchor]
        np.testing.assert_array_equal(targets.boxes[image, anchor], boxes[image, row])
        assert int(targets.classes[image, anchor]) == classes[image, row]
    region = valuable_region(ANCHORS, COUNTS, boxes, classes, candidates=candidates).numpy()
    np.testing.assert_allclose(region, weights, atol=1e-5)
    assert (expected >= 0).sum() > 4 and not targets.is_ignored.numpy().any()
    assert (weights > 0).sum() > 4 and region[1].max() == 0 and expected[1].max() == BACKGROUND


def test_the_nearest_of_equal_distances_are_the_first():
    """The four positions around the object's center are equally far from it; only two are candidates."""
    box = [[[1.0, 1.0, 7.0, 7.0]]]
    anchors = square_anchors([(2, 2)], [4], scale=1.0)
    everywhere = match_adaptively(anchors, [4], box, [[0]], candidates=4).number.numpy()
    assert everywhere.tolist() == [[0, 0, 0, 0]]  # all have the same IoU, which is the threshold
    assert match_adaptively(anchors, [4], box, [[0]], candidates=2).number.numpy().tolist() == [[0, 0, -1, -1]]


def test_an_object_inside_all_anchors_of_two_levels_has_positions():
    """Half of the candidates have the IoU x and half x / 4, so that mean + standard deviation is above x."""
    anchors = square_anchors([(6, 6), (3, 3)], [4, 8], scale=8.0)
    targets = match_adaptively(anchors, [36, 9], [[[7.0, 7.0, 17.0, 17.0], [0.0, 0.0, 0.0, 0.0]]], [[1, -1]])
    inside = [14, 15, 20, 21]  # the positions of the finer level with centers at 10 and 14
    assert np.flatnonzero(targets.number.numpy()[0] == 0).tolist() == inside


def test_the_padding_has_no_effect():
    boxes, classes = objects(7)
    padded = (
        np.concatenate([boxes, np.zeros((4, 3, 4), "float32")], 1),
        np.pad(classes, ((0, 0), (0, 3)), constant_values=-1),
    )
    for function in (valuable_region, lambda *arguments: match_adaptively(*arguments).number):
        np.testing.assert_array_equal(function(ANCHORS, COUNTS, boxes, classes), function(ANCHORS, COUNTS, *padded))
