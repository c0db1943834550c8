"""Is a model as often right as it says, and does one temperature make it so?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import Predictions

BINS = 15
LARGEST = 20.0  # temperatures are sought from 1 / LARGEST to LARGEST


def calibration(model: Predictions, held_out: Predictions | None = None) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields how well a model's probabilities say how often it is right, and nothing where there are no labels.

    * `nll`, the mean negative log-likelihood of the label in nats;
    * `ece`, the expected calibration error in [0, 1] (Guo et al. 2017, 1706.04599, equation 3), over 15 bins of equal
      width of the largest probability, each open below and closed above;
    * `brier`, the mean over examples of sum_k (p_k - y_k)^2, in [0, 2] (Brier 1950);
    * `reliability` `(15, 3)`: mean confidence (the bin's middle where it is empty), accuracy (NaN where it is empty)
      and number of examples of each bin.

    With `held_out` also `temperature`, the T at which the held-out answers' NLL of softmax(z / T) is least (section
    4.2 there), and `nll_scaled`, `ece_scaled`, `brier_scaled` and `reliability_scaled` of `model` at that T.

    Args:
        model: the answers that are measured, before and after.
        held_out: answers of the same model to other examples; these alone fit the temperature.

    Raises:
        ValueError: where a label is no class of the logits, or the two have different numbers of classes.

    >>> sure = Predictions(np.array([[9.0, 0.0], [9.0, 0.0]]), np.array([0, 1]))
    >>> found = dict(calibration(sure, held_out=sure))
    >>> round(found["ece"], 3), found["ece_scaled"] < 0.2
    (0.5, True)
    """
    if model.labels is None:
        return
    yield from _measured(model, 1.0, "")
    if held_out is not None and held_out.labels is not None:
        if held_out.logits.shape[-1] != model.logits.shape[-1]:
            came = f"{held_out.logits.shape[-1]} classes held out, {model.logits.shape[-1]} measured"
            raise ValueError(explain_mismatch("answers of one model", came))
        found = temperature(held_out)
        yield "temperature", found
        yield from _measured(model, found, "_scaled")


def temperature(held_out: Predictions) -> float:
    """The temperature T in [0.05, 20] at which the answers' NLL is least; 1 where no other is better.

    >>> round(temperature(Predictions(np.array([[2.0, 0.0]] * 4), np.array([0, 0, 0, 1]))), 3)  # 3 to 1 = exp(2 / T)
    1.82
    """
    bound = np.log(LARGEST)
    found = minimize_scalar(
        lambda exponent: likelihood(held_out, np.exp(exponent)), bounds=(-bound, bound), method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x)) if found.fun < likelihood(held_out) else 1.0


def likelihood(model: Predictions, temperature: float = 1.0) -> float:
    """The mean negative log-likelihood of the labels under softmax(z / T), in nats."""
    logs = log_softmax(model.logits.astype("float64") / temperature, axis=-1)
    return float(-logs[np.arange(len(logs)), model.labels].mean())


def _measured(model: Predictions, temperature: float, ending: str) -> Iterator[tuple[str, float | np.ndarray]]:
    right = model.right
    probabilities = softmax(model.logits.astype("float64") / temperature, axis=-1)
    curve = reliability(probabilities.max(-1), right)
    weight = curve[:, 2] / len(right)
    wanted = np.eye(probabilities.shape[-1])[model.labels]
    yield f"nll{ending}", likelihood(model, temperature)
    yield f"ece{ending}", float(np.nansum(weight * np.abs(curve[:, 0] - curve[:, 1])))
    yield f"brier{ending}", float(np.square(probabilities - wanted).sum(-1).mean())
    yield f"reliability{ending}", curve


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> np.ndarray:
    """`(bins, 3)` float64: mean confidence, accuracy and number of examples by bins of confidence.

    Args:
        confidence: `(N,)` in [0, 1].
        right: `(N,)` bool.
        bins: how many of equal width; bin m has confidences in (m / bins, (m + 1) / bins], the first also 0.

    >>> reliability(np.array([0.5, 0.6, 1.0]), np.array([True, False, True]), bins=2).tolist()
    [[0.5, 1.0, 1.0], [0.8, 0.5, 2.0]]
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    count = np.bincount(place, minlength=bins)
    mean, accuracy = (edges[:-1] + edges[1:]) / 2, np.full(bins, np.nan)
    np.divide(np.bincount(place, confidence, bins), count, out=mean, where=count > 0)
    np.divide(np.bincount(place, right, bins), count, out=accuracy, where=count > 0)
    return np.stack([mean, accuracy, count], -1)
