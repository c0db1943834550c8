"""Calibration against plain loops and closed forms."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from kd_keras.evaluation import Predictions, calibration
from kd_keras.evaluation.calibration import negative_log_likelihood, reliability, temperature


def drawn(count=400, classes=5, scale=3.0, seed=0):
    """Logits whose labels are drawn from their softmax, then multiplied: overconfident by exactly that factor."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)) * 1.5
    labels = np.array([random.choice(classes, p=row) for row in softmax(logits, -1)])
    return Predictions((scale * logits).astype("float32"), labels)


def by_loop(model, bins=15):
    """ECE and the curve, one example after the other."""
    content = [[] for _ in range(bins)]
    for row, label in zip(softmax(model.logits.astype("float64"), -1), model.labels, strict=True):
        sure = max(row)
        content[max(0, math.ceil(sure * bins - 1e-12) - 1)].append((sure, list(row).index(sure) == label))
    ece = sum(
        len(members) / len(model.labels) * abs(np.mean([a for a, _ in members]) - np.mean([b for _, b in members]))
        for members in content
        if members
    )
    return ece, content


@pytest.mark.parametrize("classes", [2, 5])
def test_measures_against_loops_and_scikit_learn(classes):
    model = drawn(classes=classes)
    findings = dict(calibration(model))
    ece, content = by_loop(model)
    assert findings["ece"] == pytest.approx(ece, abs=1e-12) and 0.05 < ece < 0.6
    assert findings["reliability"][:, 2].tolist() == [len(members) for members in content]
    for (confidence, accuracy, _), members in zip(findings["reliability"], content, strict=True):
        if members:
            assert [confidence, accuracy] == pytest.approx(np.mean(members, 0).tolist())
    probabilities = softmax(model.logits.astype("float64"), -1)
    assert findings["nll"] == pytest.approx(log_loss(model.labels, probabilities, labels=range(classes)), rel=1e-9)
    by_class = [brier_score_loss(model.labels == kind, probabilities[:, kind]) for kind in range(classes)]
    assert findings["brier"] == pytest.approx(sum(by_class), rel=1e-9)
    assert (
        set(findings) == {"nll", "ece", "brier", "reliability"} and dict(calibration(model._replace(labels=None))) == {}
    )


def test_bins_that_are_empty_and_confidences_on_an_edge():
    curve = reliability(np.array([0.0, 0.2, 0.2000001, 1.0]), np.array([False, True, True, True]), bins=5)
    assert curve[:, 2].tolist() == [2, 1, 0, 0, 1]
    assert np.isnan(curve[2:4, 1]).all() and curve[2:4, 0].tolist() == pytest.approx([0.5, 0.7])
    ties = Predictions(np.zeros((4, 2), "float32"), np.array([0, 1, 1, 1]))  # a confidence of 1/2, correct once in four
    findings = dict(calibration(ties))
    assert findings["ece"] == 0.25 and findings["brier"] == 0.5 and findings["nll"] == pytest.approx(math.log(2))


def test_the_temperature_is_where_the_slope_of_the_likelihood_is_zero():
    model = drawn(scale=3.0)
    z, y = model.logits.astype("float64"), model.labels

    def slope(temperature):  # of the mean NLL by 1 / T: the mean logit under softmax(z / T) minus the label's
        return ((softmax(z / temperature, -1) * z).sum(-1) - z[np.arange(len(y)), y]).mean()

    assert temperature(model) == pytest.approx(brentq(slope, 0.5, 15), rel=1e-4)
    assert 2 < temperature(model) < 4.5  # labels were drawn at T = 3


def test_scaling_never_increases_the_nll_of_the_examples_that_it_is_fitted_on():
    for seed in range(5):
        for scale in (0.2, 1.0, 9.0):
            model = drawn(count=60, scale=scale, seed=seed)
            assert negative_log_likelihood(model, temperature(model)) <= negative_log_likelihood(model)
    right = Predictions(np.eye(3, dtype="float32"), np.arange(3))
    assert temperature(right) == pytest.approx(1 / 20, rel=1e-2)  # never wrong: the lowest temperature of the search
    assert temperature(Predictions(np.zeros((3, 3), "float32"), np.arange(3))) == 1.0  # no temperature changes anything


def test_before_and_after_are_measured_on_examples_that_did_not_fit_the_temperature():
    fitting, measured = drawn(seed=1), drawn(seed=2)
    findings = dict(calibration(measured, held_out=fitting))
    assert findings["temperature"] == temperature(fitting) and findings["nll"] == negative_log_likelihood(measured)
    scaled = dict(calibration(measured._replace(logits=measured.logits / np.float32(findings["temperature"]))))
    for name in ("nll", "ece", "brier", "reliability"):
        np.testing.assert_allclose(findings[f"{name}_scaled"], scaled[name], rtol=1e-4, atol=1e-6)
    assert findings["ece_scaled"] < findings["ece"] and findings["brier_scaled"] < findings["brier"]
    with pytest.raises(ValueError, match="of the same model"):
        dict(calibration(measured, held_out=drawn(classes=4)))
