"""How often is a model right?"""

from __future__ import annotations

from collections.abc import Iterator

from kd_keras.evaluation.base import Answers


def accuracy(model: Answers) -> Iterator[tuple[str, float]]:
    """Yields `accuracy` in [0, 1] (top-1), and nothing where there are no labels.

    >>> import numpy as np
    >>> dict(accuracy(Answers(np.eye(4), np.array([0, 1, 2, 0]))))
    {'accuracy': 0.75}
    """
    if model.labels is not None:
        yield "accuracy", float((model.logits.argmax(-1) == model.labels).mean())
