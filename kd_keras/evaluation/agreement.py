"""How often does a student say what its teacher says, and who is right where they differ?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kd_keras.evaluation.base import Predictions, check_same, mean_by_class
from kd_keras.primitives import softened_kl


def agreement(student: Predictions, teacher: Predictions) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how alike a student and a teacher answer.

    * `agreement`, the share of examples in [0, 1] on which both choose the same class, and `agreement_by_class`
      `(K,)`;
    * `kl`, the mean KL(teacher || student) in nats at temperature 1, 0 or more, and `kl_by_class` `(K,)`;
    * where there are labels, `only_teacher_right` and `only_student_right`, shares of all examples.

    By class means by label, and where there are none, by the teacher's class; NaN for a class without examples.

    Raises:
        ValueError: where the two answered different examples or have different classes.

    >>> dict(agreement(Predictions(np.eye(2), None), Predictions(np.eye(2), None)))["kl_by_class"].tolist()
    [0.0, 0.0]
    """
    check_same(student, teacher)
    labels = student.labels if student.labels is not None else teacher.labels
    count = teacher.logits.shape[-1]
    by = teacher.chosen if labels is None else labels
    same = student.chosen == teacher.chosen
    kl = np.asarray(softened_kl(student.logits, teacher.logits), "float64")
    yield "agreement", float(same.mean())
    yield "kl", float(kl.mean())
    yield "agreement_by_class", mean_by_class(same, by, count)
    yield "kl_by_class", mean_by_class(kl, by, count)
    if labels is not None:
        right, wanted = student.chosen == labels, teacher.chosen == labels
        yield "only_teacher_right", float((wanted & ~right).mean())
        yield "only_student_right", float((right & ~wanted).mean())
