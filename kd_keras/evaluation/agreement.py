"""How often does a student predict what its teacher predicts, and which of them is correct if they differ?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kd_keras.evaluation.base import Predictions, check_same_examples, mean_by_class
from kd_keras.primitives import softened_kl


def agreement(student: Predictions, teacher: Predictions) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how similar the predictions of a student and a teacher are.

    * `agreement`, the fraction of examples in [0, 1] for which both predict the same class, and `agreement_by_class`
      `(K,)`;
    * `kl`, the mean KL(teacher || student) in nats at temperature 1, at least 0, and `kl_by_class` `(K,)`;
    * if there are labels, `only_teacher_correct` and `only_student_correct`, fractions of all examples.

    The values by class are means over the examples of each label, or of each class that the teacher predicts if there
    are no labels; NaN for a class without examples.

    Raises:
        ValueError: if the two are predictions for different examples or have different classes.

    >>> dict(agreement(Predictions(np.eye(2), None), Predictions(np.eye(2), None)))["kl_by_class"].tolist()
    [0.0, 0.0]
    """
    check_same_examples(student, teacher)
    labels = student.labels if student.labels is not None else teacher.labels
    count = teacher.logits.shape[-1]
    groups = teacher.classes if labels is None else labels
    same = student.classes == teacher.classes
    kl = np.asarray(softened_kl(student.logits, teacher.logits), "float64")
    yield "agreement", float(same.mean())
    yield "kl", float(kl.mean())
    yield "agreement_by_class", mean_by_class(same, groups, count)
    yield "kl_by_class", mean_by_class(kl, groups, count)
    if labels is not None:
        student_correct, teacher_correct = student.classes == labels, teacher.classes == labels
        yield "only_teacher_correct", float((teacher_correct & ~student_correct).mean())
        yield "only_student_correct", float((student_correct & ~teacher_correct).mean())
