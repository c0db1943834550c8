"""How often does a student say what its teacher says?"""

from __future__ import annotations

from collections.abc import Iterator

from kd_keras.contracts import mismatch
from kd_keras.evaluation.base import Answers
from kd_keras.primitives import softened_kl


def agreement(student: Answers, teacher: Answers) -> Iterator[tuple[str, float]]:
    """Yields `agreement`, the share of examples in [0, 1] on which both choose the same class, and `kl`, the mean
    KL(teacher || student) in nats at temperature 1.

    Raises:
        ValueError: where the two answered different numbers of examples or classes.

    >>> import numpy as np
    >>> dict(agreement(Answers(np.eye(2), None), Answers(np.eye(2), None)))
    {'agreement': 1.0, 'kl': 0.0}
    """
    if student.logits.shape != teacher.logits.shape:
        came = f"student {student.logits.shape}, teacher {teacher.logits.shape}"
        raise ValueError(mismatch("logits (N, K) of the same examples and classes", came))
    yield "agreement", float((student.logits.argmax(-1) == teacher.logits.argmax(-1)).mean())
    yield "kl", float(softened_kl(student.logits, teacher.logits).numpy().mean())
