"""Asks all questions about detectors; they need only the detections, so that each network runs once."""

from __future__ import annotations

from typing import Any

from kd_keras.evaluation.average_precision import average_precision
from kd_keras.evaluation.box_matches import Matches, match_detections
from kd_keras.tasks.detection.agreement import agreement
from kd_keras.tasks.detection.intervals import RESAMPLES, intervals
from kd_keras.tasks.detection.misses import Miss, list_misses, misses, object_sizes
from kd_keras.tasks.detection.predictions import BoxPredictions, check_same_images
from kd_keras.tasks.detection.scores import OperatingPoint, calibration, operating_point

THRESHOLD = 0.3  # of the score, if there are no labels to choose a better one


def evaluate_detections(
    model: BoxPredictions, teacher: BoxPredictions | None = None, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The findings about a detector by name: numbers or arrays.

    * With labels: those of `average_precision`, `intervals` and `calibration`; `f1`, `precision` and `recall` at the
      threshold of the score with the largest F1, which is `score_threshold`.
    * With a teacher: those of `agreement` with its detections above its `score_threshold` (0.3 without labels); with
      labels also the `difference` of the two APs with its interval, and `misses`.

    Together with `cost` and `latency` they are what `check_requirements` and the report read; `difference` belongs to
    the requirement `max_ap_drop`.

    Args:
        model: the detections of a network.
        teacher: those of its teacher in the same images; `None` for the teacher itself.
        resamples: the number of resamples of the intervals.

    Raises:
        ValueError: if the two are detections in different images.

    >>> import numpy as np
    >>> from kd_keras.detection.decoding import Detections
    >>> labels = {"boxes": np.array([[[0.0, 0.0, 0.5, 0.5]]]), "classes": np.array([[0]])}
    >>> detections = Detections(np.array([[[0.0, 0.0, 50.0, 50.0]]]), np.array([[0.9]]), np.array([[0]]), np.array([1]))
    >>> same = BoxPredictions(detections, labels, (100, 100), 1)
    >>> findings = evaluate_detections(same, same, resamples=10)
    >>> round(findings["ap"], 3), round(findings["agreement"], 3), findings["difference"], findings["score_threshold"]
    (1.0, 1.0, 0.0, 0.9)
    """
    findings: dict[str, Any] = {}
    reference = None
    if teacher is not None:
        check_same_images(model, teacher)
        threshold, reference = _threshold_and_matches(teacher)
        findings |= agreement(model, teacher, threshold)
    own_threshold, matches = _threshold_and_matches(model)
    if model.labels is None or matches is None:
        return findings
    findings |= average_precision(model.labels, model.detections, model.size, model.classes)
    findings |= {**dict(intervals(matches, reference, resamples)), **dict(calibration(matches))}
    point = operating_point(matches)
    if point is not None:
        names = ("score_threshold", "f1", "precision", "recall")
        findings |= dict(zip(names, point, strict=True))
    if reference is not None:
        findings |= misses(matches, reference, object_sizes(model, matches), (own_threshold, threshold))
    return findings


def find_misses(student: BoxPredictions, teacher: BoxPredictions) -> list[Miss]:
    """The objects that only the teacher finds, each network from its `score_threshold` on; its highest scores first.

    Raises:
        ValueError: if the two are detections in different images, or there are no labels.
    """
    check_same_images(student, teacher)
    low, matches = _threshold_and_matches(student)
    high, reference = _threshold_and_matches(teacher)
    if matches is None or reference is None:
        raise ValueError("Labels are needed to know which objects a network misses, but received none.")
    return list_misses(matches, reference, (low, high))


def score_threshold(model: BoxPredictions) -> float:
    """The threshold of the score with the largest F1, or 0.3 if there are no labels or nothing is found."""
    return _threshold_and_matches(model)[0]


def _threshold_and_matches(model: BoxPredictions) -> tuple[float, Matches | None]:
    if model.labels is None:
        return THRESHOLD, None
    matches = match_detections(model.labels, model.detections, model.size, model.classes)
    point: OperatingPoint | None = operating_point(matches)
    return (THRESHOLD if point is None else point.score), matches
