"""Intervals compared with scipy's bootstrap and the normal approximation, McNemar with sums of the binomial."""

from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import bootstrap

from kd_keras.evaluation import Predictions, intervals

COUNT = 400
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, COUNT)


def model(errors):
    """Predictions that are wrong for the examples that `errors` `(N,)` marks."""
    return Predictions(np.eye(3, dtype="float32")[(LABELS + errors) % 3], LABELS)


ONE, OTHER = (RANDOM.random(COUNT) < share for share in (0.1, 0.2))


def test_the_interval_of_an_accuracy():
    findings = dict(intervals(model(ONE)))
    expected = bootstrap([~ONE], np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1))
    low, high = findings["accuracy_low"], findings["accuracy_high"]
    assert [low, high] == pytest.approx(list(expected.confidence_interval), abs=0.006)
    accuracy = 1 - ONE.mean()
    deviation = sqrt(accuracy * (1 - accuracy) / COUNT)
    assert [low, high] == pytest.approx([accuracy - 1.96 * deviation, accuracy + 1.96 * deviation], abs=0.008)
    few = [dict(intervals(model(ONE), resamples=10, seed=seed)) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert dict(intervals(model(ONE)._replace(labels=None))) == {}


def test_the_paired_difference():
    findings = dict(intervals(model(ONE), model(OTHER)))
    assert findings["difference"] == pytest.approx(OTHER.mean() - ONE.mean())
    paired = bootstrap(
        [~ONE * 1, ~OTHER * 1],
        lambda one, other, axis: (one - other).mean(axis),
        paired=True,
        n_resamples=9999,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    ends = [findings["difference_low"], findings["difference_high"]]
    assert ends == pytest.approx(list(paired.confidence_interval), abs=0.008)
    both = ONE | (RANDOM.random(COUNT) < 0.05)  # nearly the same errors: a much narrower interval
    narrow = dict(intervals(model(ONE), model(both)))
    assert narrow["difference_high"] - narrow["difference_low"] < 0.6 * (ends[1] - ends[0])
    turned = dict(intervals(model(OTHER), model(ONE)))
    assert turned["difference"] == -findings["difference"] and turned["mcnemar"] == pytest.approx(findings["mcnemar"])


def test_mcnemar_exactly():
    gained, lost = int((~ONE & OTHER).sum()), int((ONE & ~OTHER).sum())
    tail = sum(comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    findings = dict(intervals(model(ONE), model(OTHER)))["mcnemar"]
    assert findings == pytest.approx(min(1.0, 2 * tail), rel=1e-9) and 0 < findings < 0.05


def test_two_equal_models_and_two_of_other_examples():
    findings = dict(intervals(model(ONE), model(ONE)))
    assert [findings[f"difference{end}"] for end in ("", "_low", "_high")] == [0, 0, 0] and findings["mcnemar"] == 1
    never = np.zeros(COUNT, bool)
    assert [dict(intervals(model(never)))[f"accuracy_{end}"] for end in ("low", "high")] == [1, 1]
    with pytest.raises(ValueError, match="same examples"):
        dict(intervals(model(ONE), Predictions(np.eye(3), np.arange(3))))
