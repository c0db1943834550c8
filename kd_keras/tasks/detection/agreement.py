"""Does a student find what its teacher finds, with boxes and scores like the teacher's?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import spearmanr

from kd_keras.detection.boxes import iou
from kd_keras.evaluation.average_precision import average_precision
from kd_keras.evaluation.box_matches import match_detections
from kd_keras.tasks.detection.predictions import BoxPredictions, check_same_images

MIN_PAIRS = 3  # fewer pairs of scores have no meaningful correlation


def agreement(
    student: BoxPredictions, teacher: BoxPredictions, threshold: float = 0.3
) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how similar the detections of a student and a teacher are; labels are not needed.

    The truth are the teacher's detections with a score of at least `threshold`; nothing is yielded if there are none.

    * `agreement` and `agreement50`, the AP and AP50 of the student's detections, and `agreement_by_class` `(K,)`;
    * `matched`, the fraction of the teacher's boxes in [0, 1] that the student finds at the IoU threshold 0.5, with any
      score;
    * of these pairs of boxes, `matched_iou`, their mean IoU, and `score_correlation`, Spearman's rank correlation of
      their scores in [-1, 1] (left out if there are fewer than three pairs or all scores of a network are equal).

    Args:
        student: the student's detections.
        teacher: the teacher's in the same images.
        threshold: the lowest score of a box of the teacher that the student should find, best its
            `operating_point`.

    Raises:
        ValueError: if the two are detections in different images.

    >>> from kd_keras.detection.decoding import Detections
    >>> boxes = np.array([[[0.0, 0.0, 50.0, 50.0]]])
    >>> detections = Detections(boxes, np.array([[0.9]]), np.array([[0]]), np.array([1]))
    >>> same = BoxPredictions(detections, None, (100, 100), 1)
    >>> {name: round(float(value), 3) for name, value in agreement(same, same) if np.ndim(value) == 0}
    {'agreement': 1.0, 'agreement50': 1.0, 'matched': 1.0, 'matched_iou': 1.0}
    """
    check_same_images(student, teacher)
    truth = teacher.as_labels(threshold)
    metrics = dict(average_precision(truth, student.detections, student.size, student.classes))
    if not metrics:
        return
    yield "agreement", metrics["ap"]
    yield "agreement50", metrics["ap50"]
    yield "agreement_by_class", metrics["ap_by_class"]
    matches = match_detections(truth, student.detections, student.size, student.classes)
    of_student, of_teacher = matches.pairs()
    count = len(of_student[0])
    yield "matched", count / len(matches.object_images)
    if not count:
        return
    overlaps = iou(np.asarray(student.detections.boxes)[of_student], np.asarray(teacher.detections.boxes)[of_teacher])
    yield "matched_iou", float(np.mean(overlaps))
    scores = np.asarray(student.detections.scores)[of_student], np.asarray(teacher.detections.scores)[of_teacher]
    if count >= MIN_PAIRS and all(np.ptp(values) > 0 for values in scores):
        yield "score_correlation", float(spearmanr(*scores).statistic)
