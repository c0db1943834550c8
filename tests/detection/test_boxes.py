"""Box formats, IoU, GIoU and DIoU against plain arithmetic in NumPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from kd_keras.detection.boxes import FORMATS, box_area, convert_boxes, diou, giou, iou
from tests.support.boxes import overlap

# One box of an image of height 50 and width 200, in every format.
SAME = {
    "rel_yxyx": [0.2, 0.1, 0.6, 0.4],
    "xyxy": [20.0, 10.0, 80.0, 30.0],
    "xywh": [20.0, 10.0, 60.0, 20.0],
    "rel_center_xywh": [0.25, 0.4, 0.3, 0.4],
}


def random_boxes(count, seed):
    corners = np.random.default_rng(seed).uniform(0, 10, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], -1).astype("float32")


@pytest.mark.parametrize("source, target", itertools.product(FORMATS, FORMATS))
def test_every_format_is_converted_to_every_other(source, target):
    assert set(SAME) == set(FORMATS)
    converted = convert_boxes([[SAME[source]]], source, target, size=(50, 200))
    assert converted.shape == (1, 1, 4)
    np.testing.assert_allclose(converted[0, 0], SAME[target], rtol=1e-6)


def test_a_missing_size_or_unknown_format_raises():
    with pytest.raises(ValueError, match=r"size=\(height, width\) to convert boxes from 'rel_yxyx' to 'xyxy'"):
        convert_boxes([SAME["rel_yxyx"]], "rel_yxyx", "xyxy")
    with pytest.raises(ValueError, match="target=.*'yxyx'"):
        convert_boxes([SAME["xyxy"]], "xyxy", "yxyx")
    assert convert_boxes([SAME["xyxy"]], "xyxy", "xywh").shape == (1, 4)


def test_iou_and_giou_of_all_pairs_are_those_of_intervals():
    ones, others = random_boxes(20, 0), random_boxes(15, 1)
    expected = np.array([[overlap(one, other) for other in others] for one in ones.astype("float64")])
    assert (expected[..., 0] == 0).any() and (expected[..., 0] > 0.2).any()
    np.testing.assert_allclose(iou(ones[:, None], others), expected[..., 0], atol=1e-6)
    np.testing.assert_allclose(giou(ones[:, None], others), expected[..., 1], atol=1e-6)


def test_diou_subtracts_the_distance_of_the_centers():
    ones, targets = random_boxes(6, 5), random_boxes(7, 6)
    for box, target in itertools.product(ones.astype("float64"), targets.astype("float64")):
        hull = [max(box[i + 2], target[i + 2]) - min(box[i], target[i]) for i in (0, 1)]
        apart = [(box[i] + box[i + 2] - target[i] - target[i + 2]) / 2 for i in (0, 1)]
        expected = overlap(box, target)[0] - (apart[0] ** 2 + apart[1] ** 2) / (hull[0] ** 2 + hull[1] ** 2)
        assert float(diou(box, target)) == pytest.approx(expected, abs=1e-6)


def test_the_gradient_of_giou_is_that_of_central_differences():
    ones, others, step = random_boxes(8, 2), random_boxes(8, 3), 1e-6
    variable = tf.Variable(ones)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(giou(variable, others))
    gradient = tape.gradient(total, variable).numpy()
    for row, column in itertools.product(range(8), range(4)):
        shifted = np.stack([ones[row].astype("float64")] * 2)
        shifted[:, column] += (step, -step)
        values = [overlap(box, others[row].astype("float64"))[1] for box in shifted]
        assert gradient[row, column] == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-4)


def test_empty_and_equal_boxes():
    empty = tf.Variable(np.zeros((1, 4), "float32"))
    with tf.GradientTape() as tape:
        values = [float(function(empty, empty)[0]) for function in (iou, giou, diou)]
        total = tf.reduce_sum(giou(empty, empty))
    assert values == [0.0, 0.0, 0.0] and np.isfinite(tape.gradient(total, empty)).all()
    boxes = random_boxes(5, 4)
    np.testing.assert_allclose(giou(boxes, boxes), np.ones(5), atol=1e-6)
    assert float(box_area([2.0, 0.0, 1.0, 5.0])) == 0.0
