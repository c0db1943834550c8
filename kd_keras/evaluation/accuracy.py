"""How often is a model correct, and which classes does it confuse?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import confusion_matrix

from kd_keras.evaluation.base import Predictions, mean_by_class


def accuracy(model: Predictions) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how often a model is correct, or nothing if there are no labels.

    * `accuracy` in [0, 1] (top-1);
    * `top5` in [0, 1], how often the label is among the five largest logits, only if there are more than five classes.
      Equal logits are ordered by class, as in top-1;
    * `accuracy_by_class` `(K,)` float64, NaN for a class without examples;
    * `confusion` `(K, K)` int64, counts: the label is the row, the predicted class is the column.

    Raises:
        ValueError: if a label is not a class of the logits.

    >>> findings = dict(accuracy(Predictions(np.eye(4), np.array([0, 1, 2, 0]))))
    >>> findings["accuracy"], findings["confusion"][0].tolist()
    (0.75, [1, 0, 0, 1])
    """
    if model.labels is None:
        return
    classes = model.logits.shape[-1]
    yield "accuracy", float(model.correct.mean())
    if classes > 5:
        top = np.argsort(-model.logits, axis=-1, kind="stable")[:, :5]
        yield "top5", float((top == model.labels[:, None]).any(-1).mean())
    yield "accuracy_by_class", mean_by_class(model.correct, model.labels, classes)
    yield "confusion", confusion_matrix(model.labels, model.classes, labels=np.arange(classes))
