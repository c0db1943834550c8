"""Do a model's probabilities match how often it is correct, and does one temperature make them match?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from kd_keras.evaluation.base import Predictions

BINS = 15
MAX_TEMPERATURE = 20.0  # temperatures are searched between 1 / MAX_TEMPERATURE and MAX_TEMPERATURE


def calibration(model: Predictions, held_out: Predictions | None = None) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how well a model's probabilities are calibrated, or nothing if there are no labels.

    * `nll`, the mean negative log-likelihood of the label in nats;
    * `ece`, the expected calibration error in [0, 1] (Guo et al. 2017, 1706.04599, equation 3), over 15 bins of equal
      width of the largest probability, each open below and closed above;
    * `brier`, the mean over examples of sum_k (p_k - y_k)^2, in [0, 2] (Brier 1950);
    * `reliability` `(15, 3)`: mean confidence (the middle of the bin if it is empty), accuracy (NaN if it is empty) and
      number of examples of each bin.

    With `held_out` also `temperature`, the T that minimizes the NLL of softmax(z / T) on the held-out predictions
    (section 4.2 of that paper), and `nll_scaled`, `ece_scaled`, `brier_scaled` and `reliability_scaled` of `model` at
    that T.

    Args:
        model: the predictions that are measured, before and after scaling.
        held_out: predictions of the same model for other examples; only these fit the temperature.

    Raises:
        ValueError: if a label is not a class of the logits, or if the two have different numbers of classes.

    >>> confident = Predictions(np.array([[9.0, 0.0], [9.0, 0.0]]), np.array([0, 1]))
    >>> findings = dict(calibration(confident, held_out=confident))
    >>> round(findings["ece"], 3), findings["ece_scaled"] < 0.2
    (0.5, True)
    """
    if model.labels is None:
        return
    yield from _calibration_at(1.0, model, "")
    if held_out is not None and held_out.labels is not None:
        if held_out.logits.shape[-1] != model.logits.shape[-1]:
            raise ValueError(
                "The held-out predictions must be of the same model, but they have"
                f" {held_out.logits.shape[-1]} classes and the measured ones {model.logits.shape[-1]}."
            )
        fitted = temperature(held_out)
        yield "temperature", fitted
        yield from _calibration_at(fitted, model, "_scaled")


def temperature(held_out: Predictions) -> float:
    """The temperature T in [0.05, 20] that minimizes the NLL of the predictions; 1 if no other is better.

    >>> round(temperature(Predictions(np.array([[2.0, 0.0]] * 4), np.array([0, 0, 0, 1]))), 3)  # 3 to 1 = exp(2 / T)
    1.82
    """
    bound = np.log(MAX_TEMPERATURE)
    minimum = minimize_scalar(
        lambda exponent: negative_log_likelihood(held_out, np.exp(exponent)),
        bounds=(-bound, bound),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(minimum.x)) if minimum.fun < negative_log_likelihood(held_out) else 1.0


def negative_log_likelihood(model: Predictions, temperature: float = 1.0) -> float:
    """The mean negative log-likelihood of the labels under softmax(z / T), in nats."""
    logs = log_softmax(model.logits.astype("float64") / temperature, axis=-1)
    return float(-logs[np.arange(len(logs)), model.labels].mean())


def _calibration_at(temperature: float, model: Predictions, suffix: str) -> Iterator[tuple[str, float | np.ndarray]]:
    correct = model.correct
    probabilities = softmax(model.logits.astype("float64") / temperature, axis=-1)
    curve = reliability(probabilities.max(-1), correct)
    weight = curve[:, 2] / len(correct)
    one_hot = np.eye(probabilities.shape[-1])[model.labels]
    yield f"nll{suffix}", negative_log_likelihood(model, temperature)
    yield f"ece{suffix}", float(np.nansum(weight * np.abs(curve[:, 0] - curve[:, 1])))
    yield f"brier{suffix}", float(np.square(probabilities - one_hot).sum(-1).mean())
    yield f"reliability{suffix}", curve


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """`(bins, 3)` float64: mean confidence, accuracy and number of examples by bins of confidence.

    Args:
        confidence: `(N,)` in [0, 1].
        correct: `(N,)` bool.
        bins: their number, 15 by default, all of equal width; bin m covers confidences in
            (m / bins, (m + 1) / bins], the first one also 0.

    >>> reliability(np.array([0.5, 0.6, 1.0]), np.array([True, False, True]), bins=2).tolist()
    [[0.5, 1.0, 1.0], [0.8, 0.5, 2.0]]
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)
    count = np.bincount(index, minlength=bins)
    mean, accuracy = (edges[:-1] + edges[1:]) / 2, np.full(bins, np.nan)
    np.divide(np.bincount(index, confidence, bins), count, out=mean, where=count > 0)
    np.divide(np.bincount(index, correct, bins), count, out=accuracy, where=count > 0)
    return np.stack([mean, accuracy, count], -1)
