"""How certain are an accuracy and the difference between two models, given the number of test examples?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import binomtest

from kd_keras.evaluation.base import Predictions, check_same_examples

RESAMPLES = 2000
LEVEL = 0.95


def intervals(
    model: Predictions, reference: Predictions | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[tuple[str, float]]:
    """Yields 95 % bootstrap percentile intervals (Efron and Tibshirani 1993, section 13.3), or nothing without labels.

    * `accuracy_low` and `accuracy_high`;
    * compared with another model: `difference`, the accuracy of `model` minus that of `reference`, with
      `difference_low` and `difference_high` from resampling examples (both models' predictions for an example are drawn
      together); and `mcnemar`, the exact two-sided p-value of the hypothesis that both make equally many errors
      (McNemar 1947, in binomial form).

    The intervals cover the choice of the test examples only: they do not say how much another training would differ.

    Args:
        model: predictions with labels.
        reference: another model's predictions for the same examples.
        resamples: the number of resamples, 2000 by default.
        seed: of the resampling.

    Raises:
        ValueError: if the two are predictions for different examples.

    >>> perfect = Predictions(np.eye(3), np.array([0, 1, 2]))
    >>> findings = dict(intervals(perfect, perfect))
    >>> findings["accuracy_low"], findings["difference"], findings["mcnemar"]
    (1.0, 0.0, 1.0)
    """
    if model.labels is None:
        return
    correct = model.correct.astype(int)
    for end, value in zip(("low", "high"), _percentiles(correct, resamples, seed), strict=True):
        yield f"accuracy_{end}", value
    if reference is None:
        return
    check_same_examples(model, reference)
    change = correct - reference._replace(labels=model.labels).correct
    yield "difference", float(change.mean())
    for end, value in zip(("low", "high"), _percentiles(change, resamples, seed), strict=True):
        yield f"difference_{end}", value
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    yield "mcnemar", float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _percentiles(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The ends of the interval of the mean of `values` `(N,)`, each -1, 0 or 1.

    Drawing N examples with replacement draws the counts of the three values from a multinomial distribution, which
    avoids N times `resamples` random numbers.
    """
    kinds = np.array([-1, 0, 1])
    fractions = np.array([(values == kind).mean() for kind in kinds])
    means = np.random.default_rng(seed).multinomial(len(values), fractions, resamples) @ kinds / len(values)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
