"""How often is a model right, and what does it take for what?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import confusion_matrix

from kd_keras.evaluation.base import Predictions, mean_by_class


def accuracy(model: Predictions) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how often a model is right, and nothing where there are no labels.

    * `accuracy` in [0, 1] (top-1);
    * `top5` in [0, 1], how often the label is among the five largest logits, of more than five classes only; of equal
      logits the earlier class comes first, as in top-1;
    * `accuracy_by_class` `(K,)` float64, NaN for a class without examples;
    * `confusion` `(K, K)` int64, counts: the label is the row, the chosen class the column.

    Raises:
        ValueError: for a label that is no class of the logits.

    >>> found = dict(accuracy(Predictions(np.eye(4), np.array([0, 1, 2, 0]))))
    >>> found["accuracy"], found["confusion"][0].tolist()
    (0.75, [1, 0, 0, 1])
    """
    if model.labels is None:
        return
    classes = model.logits.shape[-1]
    yield "accuracy", float(model.right.mean())
    if classes > 5:
        first = np.argsort(-model.logits, axis=-1, kind="stable")[:, :5]
        yield "top5", float((first == model.labels[:, None]).any(-1).mean())
    yield "accuracy_by_class", mean_by_class(model.right, model.labels, classes)
    yield "confusion", confusion_matrix(model.labels, model.chosen, labels=np.arange(classes))
