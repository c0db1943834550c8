"""Which objects does only the teacher find, and which only the student?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kd_keras.evaluation.base import mean_by_class
from kd_keras.evaluation.box_matches import Matches
from kd_keras.tasks.detection.predictions import BoxPredictions

SMALL, LARGE = 32.0**2, 96.0**2  # areas in pixels, as COCO has them


class Miss(NamedTuple):
    """An object that the teacher finds and the student does not.

    Attributes:
        image: its image's number.
        row: its row in the labels of that image.
        teacher_score: the score of the teacher's detection.
        student_score: that of the student's, below its threshold; 0 if no detection finds it.
    """

    image: int
    row: int
    teacher_score: float
    student_score: float


def misses(
    student: Matches, teacher: Matches, sizes: np.ndarray, thresholds: tuple[float, float]
) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields the fractions of objects that only one of two networks finds, or nothing if there are no objects.

    A network finds an object if a detection with a score of at least its threshold has an IoU of at least 0.5.

    * `only_teacher_finds` and `only_student_finds`, in [0, 1], of all objects;
    * `only_teacher_finds_by_class` and `only_student_finds_by_class` `(K,)`, of the objects of a class;
    * `only_teacher_finds_by_size` and `only_student_finds_by_size` `(3,)`, of the small, medium and large objects.

    A class or size without objects is NaN.

    Args:
        student, teacher: matches with the same objects.
        sizes: `(G,)`, 0, 1 or 2, as `object_sizes` gives them.
        thresholds: the lowest scores of the student and of the teacher that count, best those of `operating_point`.

    >>> from kd_keras.detection.decoding import Detections
    >>> from kd_keras.evaluation.box_matches import match_detections
    >>> labels = {"boxes": np.array([[[0.0, 0.0, 0.5, 0.5]]]), "classes": np.array([[0]])}
    >>> boxes, one = np.array([[[0.0, 0.0, 50.0, 50.0]]]), np.array([1])
    >>> detections = Detections(boxes, np.array([[0.75]]), np.array([[0]]), one)
    >>> matches = match_detections(labels, detections, (100, 100), 1)
    >>> dict(misses(matches, matches, np.array([1]), (0.8, 0.5)))["only_teacher_finds"]
    1.0
    """
    if not len(teacher.object_images):
        return
    by_student, by_teacher = (
        one.scores_of_objects() >= threshold for one, threshold in zip((student, teacher), thresholds, strict=True)
    )
    for name, only in (("teacher", by_teacher & ~by_student), ("student", by_student & ~by_teacher)):
        yield f"only_{name}_finds", float(only.mean())
        yield f"only_{name}_finds_by_class", mean_by_class(only, teacher.object_classes, teacher.shape[1])
        yield f"only_{name}_finds_by_size", mean_by_class(only, sizes, 3)


def list_misses(student: Matches, teacher: Matches, thresholds: tuple[float, float]) -> list[Miss]:
    """The objects that only the teacher finds, those of its highest scores first; arguments as for `misses`."""
    by_student, by_teacher = student.scores_of_objects(), teacher.scores_of_objects()
    missed = np.flatnonzero((by_teacher >= thresholds[1]) & (by_student < thresholds[0]))
    missed = missed[np.argsort(-by_teacher[missed], kind="stable")]
    indices = zip(teacher.object_images[missed], teacher.object_rows[missed], missed, strict=True)
    return [Miss(int(image), int(row), float(by_teacher[g]), float(by_student[g])) for image, row, g in indices]


def object_sizes(model: BoxPredictions, matches: Matches) -> np.ndarray:
    """`(G,)` int64: 0 for an object of an area below 32^2 pixels, 1 below 96^2, 2 for larger ones.

    Raises:
        ValueError: if there are no labels.
    """
    if model.labels is None:
        raise ValueError("Labels are needed for the sizes of objects, but received none.")
    boxes = model.labels["boxes"][matches.object_images, matches.object_rows].astype("float64")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * model.size[0] * model.size[1]
    return np.digitize(areas, [SMALL, LARGE])
