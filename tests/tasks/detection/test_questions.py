"""The questions about detectors in cases whose answers follow from the definitions."""

import numpy as np
import pytest

from kd_keras.evaluation import average_precision, check_requirements
from kd_keras.evaluation.box_matches import match_detections
from kd_keras.tasks.detection.agreement import agreement
from kd_keras.tasks.detection.evaluation import evaluate_detections, find_misses
from kd_keras.tasks.detection.intervals import intervals
from kd_keras.tasks.detection.misses import misses, object_sizes
from kd_keras.tasks.detection.predictions import BoxPredictions
from kd_keras.tasks.detection.scores import calibration, operating_point
from tests.support.boxes import SIZE, detections, labels, random_case

pytest.importorskip("pycocotools", reason="pycocotools is not installed")
TWO = labels([(0, 0, 0, 40, 40), (1, 60, 0, 80, 20)], [(0, 10, 0, 200, 100)])


def predictions(detected, truth=None, classes=2):
    return BoxPredictions(detected, truth, SIZE, classes)


def matches(truth, detected, classes=2):
    return match_detections(truth, detected, SIZE, classes)


class TestIntervals:
    def test_they_are_the_quantiles_of_pycocotools_on_the_drawn_images(self):
        truth, detected = random_case(5, seed=2)
        more_exact = random_case(5, seed=2, noise=1.0)[1]
        draws = np.random.default_rng(3).multinomial(5, np.full(5, 1 / 5), 7)
        values = np.zeros((2, 7, 2))
        for place, boxes in enumerate((detected, more_exact)):
            for number, weights in enumerate(draws):
                drawn = np.repeat(np.arange(5), weights)
                copies = {key: value[drawn] for key, value in truth.items()}
                boxes_there = type(detected)(*(value[drawn] for value in boxes))
                metrics = dict(average_precision(copies, boxes_there, SIZE, 3))
                values[place, number] = metrics["ap"], metrics["ap50"]
        expected = {}
        for name, column in (
            ("ap", values[0, :, 0]),
            ("ap50", values[0, :, 1]),
            ("difference", values[0, :, 0] - values[1, :, 0]),
        ):
            expected[f"{name}_low"], expected[f"{name}_high"] = np.quantile(column, [0.025, 0.975])
        computed = dict(intervals(matches(truth, detected, 3), matches(truth, more_exact, 3), resamples=7, seed=3))
        whole = [dict(average_precision(truth, one, SIZE, 3))["ap"] for one in (detected, more_exact)]
        assert computed.pop("difference") == pytest.approx(whole[0] - whole[1])
        assert computed == pytest.approx(expected)

    def test_they_contain_the_value(self):
        truth, detected = random_case(20)
        ends = dict(intervals(matches(truth, detected, 3), resamples=100))
        value = dict(average_precision(truth, detected, SIZE, 3))["ap"]
        assert ends["ap_low"] < value < ends["ap_high"] and "difference" not in ends

    def test_a_detector_does_not_differ_from_itself(self):
        own = matches(*random_case(6), 3)
        ends = dict(intervals(own, own, resamples=20))
        assert ends["difference"] == ends["difference_low"] == ends["difference_high"] == 0

    def test_matches_with_other_objects_are_rejected(self):
        with pytest.raises(ValueError, match="same objects.*3 objects in 2 images.*1 in 1"):
            list(intervals(matches(TWO, detections([], [])), matches(labels([(0, 0, 0, 9, 9)]), detections([]))))

    def test_without_objects_they_yield_nothing(self):
        empty = {"boxes": np.zeros((1, 2, 4)), "classes": np.full((1, 2), -1)}
        assert dict(intervals(matches(empty, detections([])))) == {}


class TestAgreement:
    TEACHER = detections([(0.9, 0, 0, 0, 40, 40), (0.6, 1, 60, 0, 80, 20), (0.2, 1, 0, 0, 9, 9)])

    def test_the_teachers_boxes_above_the_threshold_are_the_truth(self):
        student = detections([(0.3, 0, 0, 0, 40, 25), (0.5, 1, 60, 0, 80, 20)])
        findings = dict(agreement(predictions(student), predictions(self.TEACHER), threshold=0.5))
        assert findings["agreement_by_class"] == pytest.approx([0.3, 1])  # an IoU of 5/8 counts at 3 of 10 thresholds
        assert findings["agreement"] == pytest.approx(0.65) and findings["agreement50"] == pytest.approx(1)
        assert findings["matched"] == 1 and findings["matched_iou"] == pytest.approx((0.625 + 1) / 2)
        assert "score_correlation" not in findings  # of two pairs

    def test_the_correlation_is_that_of_the_ranks_of_pairs(self):
        places = [(0, 0, 0, 10, 10), (0, 20, 0, 30, 10), (0, 40, 0, 50, 10), (0, 60, 0, 70, 10)]
        teacher = detections([(score, *place) for score, place in zip((0.9, 0.8, 0.7, 0.6), places, strict=True)])
        for scores, expected in (((0.95, 0.6, 0.3, 0.1), 1), ((0.1, 0.2, 0.3, 0.9), -1)):
            student = detections([(score, *place) for score, place in zip(scores, places, strict=True)])
            findings = dict(agreement(predictions(student), predictions(teacher)))
            assert findings["score_correlation"] == pytest.approx(expected)

    def test_boxes_elsewhere_match_nothing(self):
        findings = dict(agreement(predictions(detections([(0.9, 0, 150, 50, 190, 90)])), predictions(self.TEACHER)))
        assert findings["agreement"] == findings["matched"] == 0 and "matched_iou" not in findings

    def test_a_teacher_that_finds_nothing_has_no_agreement(self):
        assert dict(agreement(predictions(self.TEACHER), predictions(detections([])))) == {}

    def test_other_images_are_rejected(self):
        with pytest.raises(ValueError, match="teacher's 1 images.*received 2 images"):
            list(agreement(predictions(detections([], [])), predictions(self.TEACHER)))
        with pytest.raises(ValueError, match="labels whose classes differ"):
            first, second = labels([(0, 0, 0, 9, 9)]), labels([(1, 0, 0, 9, 9)])
            list(agreement(predictions(self.TEACHER, first), predictions(self.TEACHER, second)))


class TestScores:
    # In falling order: right, wrong, right, right.
    FOUND = detections(
        [(0.95, 0, 0, 0, 40, 40), (0.45, 1, 60, 0, 80, 20), (0.85, 0, 150, 50, 190, 90)], [(0.5, 0, 10, 0, 200, 100)]
    )

    def test_calibration_compares_scores_with_precision(self):
        findings = dict(calibration(matches(TWO, self.FOUND)))
        # Four detections in four bins: |1 - 0.95|, |0 - 0.85|, |1 - 0.5|, |1 - 0.45|.
        assert findings["ece"] == pytest.approx((0.05 + 0.85 + 0.5 + 0.55) / 4)
        assert findings["reliability"].shape == (15, 3) and findings["reliability"][:, 2].sum() == 4

    def test_the_operating_point_has_the_largest_f1(self):
        point = operating_point(matches(TWO, self.FOUND))
        assert point == pytest.approx((0.45, 2 * 0.75 / 1.75, 0.75, 1.0))
        assert operating_point(matches(TWO, detections([(0.9, 1, 0, 0, 40, 40)], []))) is None

    def test_a_threshold_does_not_separate_equal_scores(self):
        detected = detections([(0.5, 0, 0, 0, 40, 40), (0.5, 0, 150, 50, 190, 90)], [])
        assert operating_point(matches(TWO, detected)) == pytest.approx((0.5, 0.4, 0.5, 1 / 3))


def test_misses_are_objects_that_only_the_teacher_finds():
    teacher = matches(TWO, detections([(0.9, 0, 0, 0, 40, 40), (0.8, 1, 60, 0, 80, 20)], []))
    student = matches(TWO, detections([(0.9, 0, 0, 0, 40, 40), (0.3, 1, 60, 0, 80, 20)], [(0.6, 0, 10, 0, 200, 100)]))
    sizes = object_sizes(predictions(None, TWO), teacher)
    assert sizes.tolist() == [1, 0, 2]  # areas of 1600, 400 and 19000
    findings = dict(misses(student, teacher, sizes, (0.5, 0.5)))
    assert findings["only_teacher_finds"] == findings["only_student_finds"] == pytest.approx(1 / 3)
    np.testing.assert_allclose(findings["only_teacher_finds_by_class"], [0, 1])
    np.testing.assert_allclose(findings["only_student_finds_by_class"], [0.5, 0])
    np.testing.assert_allclose(findings["only_teacher_finds_by_size"], [1, 0, 0])


class TestEvaluateDetections:
    def test_the_findings_fit_the_requirements(self):
        truth, detected = random_case(8)
        better = predictions(random_case(8, noise=1.0)[1], truth, 3)
        student = evaluate_detections(predictions(detected, truth, 3), better, resamples=20)
        teacher = evaluate_detections(better, resamples=20)
        assert student["difference"] == pytest.approx(student["ap"] - teacher["ap"]) and student["difference"] < -0.1
        (failed,) = check_requirements({"max_ap_drop": 0.05}, student, teacher)
        assert not failed.passed and failed.value == pytest.approx(-student["difference"])
        assert f"95 %: {-student['difference_high']:.4g} to" in failed.text
        (passed,) = check_requirements({"min_ap": student["ap"]}, student, teacher)
        assert passed.passed

    def test_labels_are_optional(self):
        unlabeled = predictions(random_case(3)[1], None, 3)
        assert {"agreement", "matched"} <= set(evaluate_detections(unlabeled, unlabeled))
        assert "ap" not in evaluate_detections(unlabeled, unlabeled) and evaluate_detections(unlabeled) == {}
        with pytest.raises(ValueError, match="Labels are needed"):
            find_misses(unlabeled, unlabeled)

    def test_misses_are_listed_by_the_teachers_score(self):
        teacher = predictions(detections([(0.7, 0, 0, 0, 40, 40), (0.9, 1, 60, 0, 80, 20)], []), TWO)
        student = predictions(detections([], [(0.6, 0, 10, 0, 200, 100)]), TWO)
        listed = find_misses(student, teacher)
        assert [(miss.image, miss.row) for miss in listed] == [(0, 1), (0, 0)]
        assert listed[0].teacher_score == pytest.approx(0.9) and listed[0].student_score == 0
