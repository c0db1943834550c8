"""How far does what a model learnt reach: beyond its training images, and does it know where it ends?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

from kd_keras.evaluation.base import Predictions


def generalization(
    test: Predictions, train: Predictions | None = None, other: Predictions | None = None
) -> Iterator[tuple[str, float]]:
    """Yields what the answers that are given allow.

    * with the training images: `accuracy_train`, and `gap`, that minus the accuracy on the test images;
    * with images of another dataset, which have none of the classes: how well a score tells the test images from them,
      as the area under the ROC curve, 1/2 for not at all: `auroc_probability` by the largest probability (Hendrycks
      and Gimpel 2017, 1610.02136), `auroc_energy` by the energy at temperature 1, -log sum_k exp(z_k) (Liu et al.
      2020, 2010.03759, equation 4).

    Args:
        test: answers to the test images.
        train: answers to training images, without augmentation.
        other: answers to images of other things; labels are not looked at.

    >>> sure, unsure = Predictions(np.array([[9.0, 0.0]]), np.array([0])), Predictions(np.array([[1.0, 0.0]]), None)
    >>> dict(generalisation(sure, train=sure, other=unsure))
    {'accuracy_train': 1.0, 'gap': 0.0, 'auroc_probability': 1.0, 'auroc_energy': 1.0}
    """
    if train is not None and train.labels is not None and test.labels is not None:
        accuracy = float(train.right.mean())
        yield "accuracy_train", accuracy
        yield "gap", accuracy - float(test.right.mean())
    if other is not None:
        known = np.repeat([1, 0], [len(test.logits), len(other.logits)])
        logits = np.concatenate([test.logits, other.logits]).astype("float64")
        yield "auroc_probability", float(roc_auc_score(known, softmax(logits, axis=-1).max(-1)))
        yield "auroc_energy", float(roc_auc_score(known, logsumexp(logits, axis=-1)))


class Trained(NamedTuple):
    """A run's flags by name, on how many images it was trained, and its accuracy on the test images."""

    flags: Mapping[str, str]
    size: int
    accuracy: float


def by_training_size(runs: Mapping[str, Trained]) -> list[list[tuple[str, int, float]]]:
    """Groups runs that differ in `train_split` alone.

    Args:
        runs: by name.

    Returns:
        For each group of at least two sizes a row `(name, size, accuracy)` for each run, smallest first.

    >>> few = Trained({"train_split": "train[:10]", "seed": "0"}, 10, 0.5)
    >>> many = Trained({"train_split": "train", "seed": "0"}, 100, 0.9)
    >>> by_training_size({"many": many, "few": few, "other": many._replace(flags={"seed": "1"})})
    [[('few', 10, 0.5), ('many', 100, 0.9)]]
    """
    groups: dict[frozenset, list[tuple[str, int, float]]] = {}
    for name, run in runs.items():
        rest = frozenset((flag, value) for flag, value in run.flags.items() if flag != "train_split")
        groups.setdefault(rest, []).append((name, run.size, run.accuracy))
    several = [rows for rows in groups.values() if len({size for _, size, _ in rows}) > 1]
    return [sorted(rows, key=lambda row: row[1]) for rows in several]
