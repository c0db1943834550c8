"""What do the scores of detections mean: how often are they right, and from which score on should one believe them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kd_keras.evaluation.box_matches import Matches
from kd_keras.evaluation.calibration import reliability


def calibration(matches: Matches) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how well scores match the precision, or nothing if there are no detections or no objects.

    A detection is correct if it finds an object at the IoU threshold 0.5.

    * `ece`, the expected calibration error of detections in [0, 1]: the mean over detections of |precision - mean
      score| of their bin, of 15 bins of the score (Küppers et al. 2020, *Multivariate Confidence Calibration for Object
      Detection*, 2004.13546, equation 5, for the score alone). It depends on the lowest score of the detections.
    * `reliability` `(15, 3)`: mean score (the middle of an empty bin), precision (NaN if the bin is empty) and number
      of detections.

    >>> from kd_keras.detection.decoding import Detections
    >>> from kd_keras.evaluation.box_matches import match_detections
    >>> labels = {"boxes": np.array([[[0.0, 0.0, 0.5, 0.5]]]), "classes": np.array([[0]])}
    >>> boxes, one = np.array([[[0.0, 0.0, 50.0, 50.0]]]), np.array([1])
    >>> detections = Detections(boxes, np.array([[0.75]]), np.array([[0]]), one)
    >>> dict(calibration(match_detections(labels, detections, (100, 100), 1)))["ece"]
    0.25
    """
    if not len(matches.scores) or not len(matches.object_images):
        return
    curve = reliability(matches.scores, matches.is_correct[0])
    weight = curve[:, 2] / len(matches.scores)
    yield "ece", float(np.nansum(weight * np.abs(curve[:, 0] - curve[:, 1])))
    yield "reliability", curve


class OperatingPoint(NamedTuple):
    """Detections from a score on.

    Attributes:
        score: the lowest score that counts.
        f1: 2 precision recall / (precision + recall), in [0, 1].
        precision: the fraction of these detections that find an object at the IoU threshold 0.5.
        recall: the fraction of objects that they find.
    """

    score: float
    f1: float
    precision: float
    recall: float


def operating_point(matches: Matches) -> OperatingPoint | None:
    """The score threshold of the largest F1 over the objects of all classes, or `None` if nothing is found.

    >>> from kd_keras.detection.decoding import Detections
    >>> from kd_keras.evaluation.box_matches import match_detections
    >>> labels = {"boxes": np.array([[[0.0, 0.0, 0.5, 0.5]]]), "classes": np.array([[0]])}
    >>> boxes = np.array([[[0.0, 0.0, 50.0, 50.0], [50.0, 50.0, 99.0, 99.0]]])
    >>> detections = Detections(boxes, np.array([[0.75, 0.25]]), np.array([[0, 0]]), np.array([2]))
    >>> operating_point(match_detections(labels, detections, (100, 100), 1))
    OperatingPoint(score=0.75, f1=1.0, precision=1.0, recall=1.0)
    """
    correct = np.cumsum(matches.is_correct[0])
    if not len(correct) or not correct[-1]:
        return None
    detections = np.arange(1, len(correct) + 1)
    f1 = 2 * correct / (detections + len(matches.object_images))
    # A threshold cannot separate detections of equal scores.
    f1[:-1][matches.scores[:-1] == matches.scores[1:]] = 0
    best = int(np.argmax(f1))
    precision, recall = correct[best] / detections[best], correct[best] / len(matches.object_images)
    return OperatingPoint(float(matches.scores[best]), float(f1[best]), float(precision), float(recall))
