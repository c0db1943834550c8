"""Non-maximum suppression against the greedy loop in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras.detection.decoding import detect
from tests.support.boxes import overlap

SIZE = (20, 30)


def predictions(seed, anchors=40, classes=3):
    random = np.random.default_rng(seed)
    centers, sides = random.uniform(0, 25, (2, anchors, 2)), random.uniform(4, 14, (2, anchors, 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1).astype("float32")
    return boxes, random.normal(-1, 2, (2, anchors, classes)).astype("float32")


def reference(boxes, logits, score_threshold, iou_threshold, candidates, detections):
    """(score, class, box) of the objects of one image."""
    height, width = SIZE
    boxes = np.clip(boxes.astype("float64"), 0, [width, height, width, height])
    scores = 1 / (1 + np.exp(-logits.astype("float64")))
    pairs = [(scores[n, k], k, n) for n in range(len(boxes)) for k in range(scores.shape[1])]
    pairs = sorted(pairs, reverse=True)[:candidates]
    kept = []
    for score, k, n in pairs:
        if score > score_threshold and all(
            other_k != k or overlap(boxes[n], box)[0] <= iou_threshold for _, other_k, box in kept
        ):
            kept.append((score, k, boxes[n]))
    return kept[:detections]


@pytest.mark.parametrize(
    "options",
    [
        {"score_threshold": 0.05, "iou_threshold": 0.5, "candidates": 300, "detections": 100},
        {"score_threshold": 0.3, "iou_threshold": 0.2, "candidates": 50, "detections": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("compiled", [False, True])
def test_objects_are_those_of_the_greedy_loop(options, compiled):
    boxes, logits = predictions(0)
    function = tf.function(lambda *arrays: detect(*arrays, size=SIZE, **options)) if compiled else None
    found = function(boxes, logits) if function else detect(boxes, logits, size=SIZE, **options)
    for image in range(2):
        expected = reference(boxes[image], logits[image], **options)
        count = int(found.count[image])
        assert count == len(expected) > 3
        np.testing.assert_allclose(found.scores[image, :count], [score for score, _, _ in expected], rtol=1e-5)
        np.testing.assert_array_equal(found.classes[image, :count], [k for _, k, _ in expected])
        np.testing.assert_allclose(found.boxes[image, :count], [box for _, _, box in expected], rtol=1e-5)
        assert found.boxes.shape == (2, options["detections"], 4)
        assert set(found.classes[image, count:].numpy()) <= {-1} and not found.boxes[image, count:].numpy().any()


def test_two_classes_in_one_place_are_two_objects():
    found = detect([[[0.0, 0.0, 9.0, 9.0]]], [[[3.0, 2.0]]], size=SIZE, detections=5)
    assert found.classes.numpy().tolist() == [[0, 1, -1, -1, -1]]


def test_nothing_is_found_below_the_threshold():
    found = detect([[[0.0, 0.0, 9.0, 9.0]]], [[[-9.0, -9.0]]], size=SIZE, detections=5)
    assert found.count.numpy().tolist() == [0] and not found.scores.numpy().any()
