"""How sure are an accuracy and a difference between two models, given how few examples there are?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import binomtest

from kd_keras.evaluation.base import Predictions, check_same

RESAMPLES = 2000
LEVEL = 0.95


def intervals(
    model: Predictions, other: Predictions | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[tuple[str, float]]:
    """Yields 95 % bootstrap percentile intervals (Efron and Tibshirani 1993, section 13.3), and nothing where there
    are no labels.

    * `accuracy_low` and `accuracy_high`;
    * against another model: `difference`, accuracy of `model` minus that of `other`, with `difference_low` and
      `difference_high` by resampling examples, both models' answers to one together; and `mcnemar`, the exact
      two-sided p-value of the hypothesis that both err equally often (McNemar 1947, in binomial form).

    The intervals are of the test examples alone: how much another training would differ they do not say.

    Args:
        model: answers with labels.
        other: another model's answers to the same examples.
        resamples: how many.
        seed: of the resampling.

    Raises:
        ValueError: where the two answered different examples.

    >>> one = Predictions(np.eye(3), np.array([0, 1, 2]))
    >>> found = dict(intervals(one, one))
    >>> found["accuracy_low"], found["difference"], found["mcnemar"]
    (1.0, 0.0, 1.0)
    """
    if model.labels is None:
        return
    right = model.right.astype(int)
    for end, value in zip(("low", "high"), _percentiles(right, resamples, seed)):
        yield f"accuracy_{end}", value
    if other is None:
        return
    check_same(model, other)
    change = right - other._replace(labels=model.labels).right
    yield "difference", float(change.mean())
    for end, value in zip(("low", "high"), _percentiles(change, resamples, seed)):
        yield f"difference_{end}", value
    only, theirs = int((change > 0).sum()), int((change < 0).sum())
    yield "mcnemar", float(binomtest(only, only + theirs).pvalue) if only + theirs else 1.0


def _percentiles(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The ends of the interval of the mean of `values` `(N,)` of -1, 0 and 1.

    To draw N examples with replacement is to draw how many of each value there are, from the multinomial: the same
    distribution, without N times `resamples` numbers.
    """
    kinds = np.array([-1, 0, 1])
    shares = np.array([(values == kind).mean() for kind in kinds])
    means = np.random.default_rng(seed).multinomial(len(values), shares, resamples) @ kinds / len(values)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
