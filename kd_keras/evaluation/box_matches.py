"""Which detection finds which object: COCO's matching, once, for all questions that go beyond average precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kd_keras.detection.boxes import NO_OBJECT
from kd_keras.detection.decoding import Detections
from kd_keras.evaluation.coco import compare_boxes

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision


class Matches(NamedTuple):
    """The D detections of n images in the order of falling scores, and the G objects image by image.

    Attributes:
        scores: `(D,)` float64.
        images: `(D,)` int64, the image of a detection.
        rows: `(D,)` int64, its row in the image.
        classes: `(D,)` int64.
        is_correct: `(10, D)` bool, whether it finds an object, by IoU threshold 0.5, 0.55, ..., 0.95.
        finds: `(D,)` int64, the number of the object that it finds at the IoU threshold 0.5, or -1.
        object_images, object_rows, object_classes: `(G,)` int64, the same of the objects.
        shape: (n, K), the numbers of images and classes.
    """

    scores: np.ndarray
    images: np.ndarray
    rows: np.ndarray
    classes: np.ndarray
    is_correct: np.ndarray
    finds: np.ndarray
    object_images: np.ndarray
    object_rows: np.ndarray
    object_classes: np.ndarray
    shape: tuple[int, int]

    def scores_of_objects(self) -> np.ndarray:
        """`(G,)` float64: the score of the detection that finds an object at the IoU threshold 0.5, or 0."""
        scores = np.zeros(len(self.object_images))
        is_correct = self.finds >= 0
        scores[self.finds[is_correct]] = self.scores[is_correct]
        return scores

    def pairs(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The detections that find an object at the IoU threshold 0.5, and these objects: images and rows, `(P,)`."""
        finding = np.flatnonzero(self.finds >= 0)
        objects = self.finds[finding]
        return (self.images[finding], self.rows[finding]), (self.object_images[objects], self.object_rows[objects])


def match_detections(labels: Mapping[str, Any], detections: Detections, size: tuple[int, int], classes: int) -> Matches:
    """Matches detections with objects as COCO does: within an image and a class, from the highest score to the lowest.

    A detection finds the object that it overlaps most among those that no detection before it has found, if the IoU is
    at least the threshold.

    Args:
        labels, detections, size, classes: as `average_precision` takes them. At most 100 detections of each class in an
            image are matched.

    Raises:
        ImportError: if pycocotools is not installed.
        ValueError: if the numbers of images differ, or a class is outside 0..K-1.

    >>> labels = {"boxes": np.array([[[0.0, 0.0, 0.5, 0.5]]]), "classes": np.array([[1]])}
    >>> detections = Detections(np.array([[[0.0, 0.0, 40.0, 50.0]]]), np.array([[0.9]]), np.array([[1]]), np.array([1]))
    >>> matches = match_detections(labels, detections, (100, 100), 3)
    >>> int(matches.is_correct[:, 0].sum())  # an IoU of 0.8: 0.5, 0.55, ..., 0.8
    7
    """
    numbers, detected = np.asarray(labels["classes"]), np.asarray(detections.classes)
    object_images, object_rows = np.nonzero(numbers != NO_OBJECT)
    indices = np.stack(np.nonzero(detected != NO_OBJECT))
    evaluation = compare_boxes(labels, detections, size, classes, by_size=False)
    if evaluation is not None:
        results = [result for result in evaluation.evalImgs if result is not None]
        matched = np.concatenate([np.array(result["dtIds"], "int64") for result in results]) - 1
        matches = np.concatenate([result["dtMatches"] for result in results], axis=1).astype("int64") - 1
    else:
        matched = np.arange(indices.shape[1])
        matches = np.full((len(THRESHOLDS), len(matched)), -1)
    images, rows = indices[:, matched]
    scores = np.asarray(detections.scores, "float64")[images, rows]
    order = np.lexsort((rows, images, -scores))
    matches = matches[:, order]
    return Matches(
        scores[order],
        images[order],
        rows[order],
        detected[images, rows][order].astype("int64"),
        matches >= 0,
        matches[0],
        object_images,
        object_rows,
        numbers[object_images, object_rows].astype("int64"),
        (len(numbers), classes),
    )


def average_precision_of(matches: Matches, weights: np.ndarray | None = None) -> tuple[float, float]:
    """`ap` and `ap50` of COCO if image i occurs `weights[i]` times.

    It equals `average_precision` on a dataset with so many copies of each image, except for the order of detections of
    equal scores.

    Args:
        matches: of the detections.
        weights: `(n,)`, at least 0; by default 1.

    Returns:
        The two values in [0, 1], or NaN if there are no objects.
    """
    images, count = matches.shape
    weights = np.ones(images) if weights is None else weights
    by_class = [_at_thresholds(matches, weights, number) for number in range(count)]
    known = np.array([precision for precision in by_class if precision is not None])
    return (float(known.mean()), float(known[:, 0].mean())) if len(known) else (np.nan, np.nan)


def _at_thresholds(matches: Matches, weights: np.ndarray, number: int) -> np.ndarray | None:
    """The average precision of a class by IoU threshold, `(10,)`, or `None` if there are no objects."""
    total = weights[matches.object_images[matches.object_classes == number]].sum()
    if not total:
        return None
    chosen = matches.classes == number
    weight, is_correct = weights[matches.images[chosen]], matches.is_correct[:, chosen]
    correct = np.cumsum(weight * is_correct, axis=1)
    recall, precision = correct / total, correct / (np.cumsum(weight) + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))  # beyond the largest recall
    return np.array([row[np.searchsorted(r, RECALLS)].mean() for row, r in zip(precision, recall, strict=True)])
