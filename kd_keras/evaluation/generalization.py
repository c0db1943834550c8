"""Does a model generalize beyond its training images, and does it recognize images that belong to no class?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

from kd_keras.evaluation.base import Predictions


def generalization(
    test: Predictions, train: Predictions | None = None, other: Predictions | None = None
) -> Iterator[tuple[str, float]]:
    """Yields what can be computed from the predictions that are passed.

    * With the training images: `accuracy_train`, and `gap`, the accuracy on the training images minus that on the test
      images.
    * With images of another dataset, which belong to none of the classes: how well a score separates the test images
      from them, as the area under the ROC curve (1/2 is chance): `auroc_probability` for the largest probability
      (Hendrycks and Gimpel 2017, 1610.02136), `auroc_energy` for the energy at temperature 1, -log sum_k exp(z_k) (Liu
      et al. 2020, 2010.03759, equation 4). Logarithms of probabilities, whose energy is always 0, have no
      `auroc_energy`.

    Args:
        test: predictions for the test images.
        train: predictions for training images, without augmentation.
        other: predictions for images of another dataset; their labels are ignored.

    >>> sure, unsure = Predictions(np.array([[9.0, 0.0]]), np.array([0])), Predictions(np.array([[1.0, 0.0]]), None)
    >>> dict(generalization(sure, train=sure, other=unsure))
    {'accuracy_train': 1.0, 'gap': 0.0, 'auroc_probability': 1.0, 'auroc_energy': 1.0}
    """
    if train is not None and train.labels is not None and test.labels is not None:
        accuracy = float(train.correct.mean())
        yield "accuracy_train", accuracy
        yield "gap", accuracy - float(test.correct.mean())
    if other is not None:
        known = np.repeat([1, 0], [len(test.logits), len(other.logits)])
        logits = np.concatenate([test.logits, other.logits]).astype("float64")
        yield "auroc_probability", float(roc_auc_score(known, softmax(logits, axis=-1).max(-1)))
        energies = -logsumexp(logits, axis=-1)
        if not np.allclose(energies, 0, atol=1e-5):
            yield "auroc_energy", float(roc_auc_score(known, -energies))


class SizedRun(NamedTuple):
    """A run's settings by name, its number of training images, and its accuracy on the test images."""

    settings: Mapping[str, Any]
    size: int
    accuracy: float


def group_by_training_size(runs: Mapping[str, SizedRun]) -> list[list[tuple[str, int, float]]]:
    """Groups the runs whose settings differ only in `train_split`.

    Args:
        runs: by name.

    Returns:
        For each group with at least two sizes one row `(name, size, accuracy)` per run, smallest first.

    >>> few = SizedRun({"train_split": "train[:10]", "seed": "0"}, 10, 0.5)
    >>> many = SizedRun({"train_split": "train", "seed": "0"}, 100, 0.9)
    >>> group_by_training_size({"many": many, "few": few, "other": many._replace(settings={"seed": "1"})})
    [[('few', 10, 0.5), ('many', 100, 0.9)]]
    """
    groups: dict[frozenset, list[tuple[str, int, float]]] = {}
    for name, run in runs.items():
        rest = frozenset((setting, repr(value)) for setting, value in run.settings.items() if setting != "train_split")
        groups.setdefault(rest, []).append((name, run.size, run.accuracy))
    several = [rows for rows in groups.values() if len({size for _, size, _ in rows}) > 1]
    return [sorted(rows, key=lambda row: row[1]) for rows in several]
