"""The matching of detections with objects: once, and average precision from it as pycocotools has it."""

import numpy as np
import pytest

from kd_keras.evaluation import average_precision
from kd_keras.evaluation.box_matches import average_precision_of, match_detections
from tests.support.boxes import SIZE, detections, labels, random_case

pytest.importorskip("pycocotools", reason="pycocotools is not installed")


def test_each_object_is_found_once_by_the_detection_of_the_highest_score():
    truth = labels([(0, 0, 0, 40, 40)], [(1, 0, 0, 40, 40), (0, 100, 0, 140, 40)])
    predicted = detections(
        [(0.5, 0, 0, 0, 40, 40), (0.7, 0, 0, 0, 40, 25)],  # the second has an IoU of 0.625 and comes first
        [(0.9, 0, 0, 0, 40, 40), (0.2, 0, 100, 0, 140, 40)],  # the first is of the wrong class
    )
    matches = match_detections(truth, predicted, SIZE, 2)
    np.testing.assert_allclose(matches.scores, [0.9, 0.7, 0.5, 0.2], atol=1e-7)
    assert matches.images.tolist() == [1, 0, 0, 1] and matches.rows.tolist() == [0, 1, 0, 1]
    assert matches.finds.tolist() == [-1, 0, -1, 2]
    assert matches.is_correct.sum(0).tolist() == [0, 3, 7, 10]  # at 0.65 and above the object is free for the other
    np.testing.assert_allclose(matches.scores_of_objects(), [0.7, 0, 0.2], atol=1e-7)


def test_the_average_precision_of_matches_is_that_of_pycocotools():
    truth, predicted = random_case(12)
    expected = dict(average_precision(truth, predicted, SIZE, 3))
    assert 0.05 < expected["ap"] < 0.8
    computed = average_precision_of(match_detections(truth, predicted, SIZE, 3))
    np.testing.assert_allclose(computed, [expected["ap"], expected["ap50"]], atol=1e-12)


def test_a_weight_counts_as_copies_of_the_image():
    truth, predicted = random_case(6)
    matches, random = match_detections(truth, predicted, SIZE, 3), np.random.default_rng(1)
    for _ in range(5):
        weights = random.multinomial(6, np.full(6, 1 / 6))
        drawn = np.repeat(np.arange(6), weights)
        copies = {key: value[drawn] for key, value in truth.items()}
        expected = dict(average_precision(copies, type(predicted)(*(value[drawn] for value in predicted)), SIZE, 3))
        np.testing.assert_allclose(
            average_precision_of(matches, weights), [expected["ap"], expected["ap50"]], atol=1e-12
        )


def test_without_objects_nothing_is_correct():
    truth = {"boxes": np.zeros((1, 2, 4)), "classes": np.full((1, 2), -1)}
    matches = match_detections(truth, detections([(0.4, 0, 0, 0, 40, 40), (0.5, 1, 0, 0, 40, 40)]), SIZE, 2)
    assert matches.classes.tolist() == [1, 0] and not matches.is_correct.any() and matches.finds.tolist() == [-1, -1]
    assert np.isnan(average_precision_of(matches)).all()


def test_without_detections_the_average_precision_is_0():
    matches = match_detections(labels([(0, 0, 0, 40, 40)]), detections([]), SIZE, 2)
    assert average_precision_of(matches) == (0, 0) and matches.scores_of_objects().tolist() == [0]
