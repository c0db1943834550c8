"""COCO's average precision in cases whose value follows from the definition."""

import sys

import numpy as np
import pytest

from kd_keras.evaluation import average_precision
from tests.support.boxes import SIZE, detections, labels

pytest.importorskip("pycocotools", reason="pycocotools is not installed")


def measured(truth, detected, classes=2):
    return dict(average_precision(truth, detected, SIZE, classes))


ONE = labels([(0, 0, 0, 40, 40)])


def test_perfect_detections_have_ap_1():
    truth = labels([(0, 0, 0, 40, 40), (1, 50, 0, 200, 100)], [(0, 10, 10, 20, 20)], [])
    detected = detections([(0.9, 0, 0, 0, 40, 40), (0.3, 1, 50, 0, 200, 100)], [(0.2, 0, 10, 10, 20, 20)], [])
    metrics = measured(truth, detected, classes=3)
    for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar10", "ar100"):
        assert metrics[name] == pytest.approx(1)
    for name in ("ap_by_class", "ap50_by_class", "ar100_by_class"):
        np.testing.assert_allclose(metrics[name], [1, 1, np.nan])
    np.testing.assert_allclose(metrics["precision_by_recall"], np.tile([1, 1, np.nan], (101, 1)))
    assert metrics["objects_by_class"].tolist() == [2, 1, 0] and metrics["objects_by_size"].tolist() == [1, 1, 1]
    assert metrics["ar1"] == pytest.approx(1)  # each class is at most once in an image


def test_an_iou_of_five_eighths_counts_at_three_of_ten_thresholds():
    metrics = measured(ONE, detections([(0.9, 0, 0, 0, 40, 25)]))
    assert metrics["ap"] == pytest.approx(0.3) and metrics["ap50"] == pytest.approx(1)
    assert metrics["ap75"] == 0 and metrics["ar100"] == pytest.approx(0.3)


def test_a_false_detection_of_a_higher_score_halves_the_precision():
    truth = labels([(0, 0, 0, 40, 40), (0, 60, 0, 90, 40)])
    detected = detections([(0.9, 0, 150, 50, 190, 90), (0.8, 0, 0, 0, 40, 40)])
    metrics = measured(truth, detected)
    # Recalls 0, 0.01, ..., 0.5 are reached with a precision of 1/2, the 50 others are not reached.
    assert metrics["ap"] == pytest.approx(51 / 101 / 2) and metrics["ar100"] == pytest.approx(0.5)
    np.testing.assert_allclose(metrics["precision_by_recall"][:, 0], [0.5] * 51 + [0] * 50)


def test_a_false_detection_of_a_lower_score_costs_nothing():
    assert measured(ONE, detections([(0.9, 0, 0, 0, 40, 40), (0.8, 0, 90, 50, 99, 90)]))["ap"] == pytest.approx(1)


def test_the_wrong_class_and_no_detection_have_ap_0():
    for detected in (detections([(0.9, 1, 0, 0, 40, 40)]), detections([])):
        metrics = measured(ONE, detected)
        assert metrics["ap"] == 0 and metrics["ap_by_class"][0] == 0 and np.isnan(metrics["ap_by_class"][1])


def test_the_classes_count_alike():
    truth = labels([(0, 0, 0, 40, 40), (0, 50, 0, 90, 40), (0, 100, 0, 140, 40), (1, 0, 50, 40, 90)])
    detected = detections([(0.9, 0, 0, 0, 40, 40), (0.9, 0, 50, 0, 90, 40), (0.9, 0, 100, 0, 140, 40)])
    assert measured(truth, detected)["ap"] == pytest.approx(0.5)


def test_metrics_without_objects_are_left_out():
    metrics = measured(ONE, detections([(0.9, 0, 0, 0, 40, 40)]))  # an area of 1600, between 32^2 and 96^2
    assert "ap_medium" in metrics and not {"ap_small", "ap_large", "ar_small"} & {*metrics}
    empty = {"boxes": np.zeros((1, 2, 4)), "classes": np.full((1, 2), -1)}
    assert measured(empty, detections([])) == {}


def test_wrong_arguments_raise(monkeypatch):
    with pytest.raises(ValueError, match="detections in 1 images.*those of 2"):
        measured(ONE, detections([], []))
    with pytest.raises(ValueError, match="labels with classes from 0 to 1.*5 to 5"):
        measured(labels([(5, 0, 0, 40, 40)]), detections([]))
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match=r"kd_keras\[detection\]"):
        measured(ONE, detections([]))
