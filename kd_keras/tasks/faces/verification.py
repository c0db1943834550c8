"""Do two images show one identity? ROC, true accepts at a rate of false ones, the equal error rate, and accuracy.

A pair is accepted if the cosine of both embeddings is at least a threshold. TAR is the fraction of accepted genuine
pairs, FAR that of accepted impostor pairs. `measure_roc` takes a weight for each pair, which the bootstrap needs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kd_keras.errors import check_number, explain_mismatch

# of squared distances between unit vectors, as in LFW's protocol
DISTANCE_THRESHOLDS = np.arange(0, 4, 0.01)


class Roc(NamedTuple):
    """The rates of false and true accepts, from the highest threshold to the lowest; one point a distinct similarity.

    Attributes:
        threshold: `(T,)`, the first one infinite. A pair is accepted if its similarity is at least this.
        far: `(T,)` from 0 to 1.
        tar: `(T,)` from 0 to 1.
    """

    threshold: np.ndarray
    far: np.ndarray
    tar: np.ndarray

    @property
    def area(self) -> float:
        """The area under the curve: the probability that a genuine pair is more similar than an impostor pair."""
        return float(np.trapezoid(self.tar, self.far))


def measure_roc(similarity: np.ndarray, same: np.ndarray, weight: np.ndarray | None = None) -> Roc:
    """The ROC of pairs.

    Args:
        similarity: `(P,)` cosines.
        same: `(P,)` booleans, whether a pair is genuine.
        weight: `(P,)` of at least 0; by default all ones.

    Raises:
        ValueError: if a similarity is not finite, or there are no genuine or no impostor pairs.

    >>> roc = measure_roc(np.array([0.9, 0.5, 0.4, 0.1]), np.array([True, False, True, False]))
    >>> roc.far.tolist(), roc.tar.tolist(), roc.area
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0], 0.75)
    """
    similarity, same, weight = _check_pairs(similarity, same, weight)
    order = np.argsort(-similarity, kind="stable")
    ordered = similarity[order]
    is_last = np.append(ordered[1:] != ordered[:-1], True)  # pairs of one similarity are accepted together
    genuine, impostor = (np.cumsum(np.where(kind, weight, 0.0)[order]) for kind in (same, ~same))
    far, tar = (np.append(0.0, total[is_last] / total[-1]) for total in (impostor, genuine))
    return Roc(np.append(np.inf, ordered[is_last]), far, tar)


def tar_at_far(roc: Roc, far: float, impostors: int) -> float:
    """The largest TAR whose FAR does not exceed a rate.

    Args:
        roc: of the pairs.
        far: the rate, above 0 and below 1.
        impostors: the number of impostor pairs.

    Raises:
        ValueError: if the rate is below 1 / impostors, which these pairs cannot measure.

    >>> roc = measure_roc(np.array([0.9, 0.5, 0.4, 0.1]), np.array([True, False, True, False]))
    >>> tar_at_far(roc, 0.5, 2)
    1.0
    """
    check_number("tar_at_far", "far", far, above=0, below=1)
    if far * impostors < 1 - 1e-9:
        expected = f"a rate of at least 1/{impostors}, the number of impostor pairs"
        advice = f"use {int(np.ceil(1 / far - 1e-9))} or more of these pairs, or a higher rate"
        raise ValueError(explain_mismatch(expected, f"far={far:g}", advice))
    return float(roc.tar[_last_within(roc, far)])


def threshold_at_far(roc: Roc, far: float) -> float:
    """The lowest threshold whose FAR does not exceed a rate; a pair is accepted if its cosine is at least this.

    It lies halfway to the next similarity below, so that the rounding of another runtime changes no decision. If too
    many impostor pairs have a cosine of 1, it is above 1: no pair is accepted.

    >>> roc = measure_roc(np.array([0.9, 0.5, 0.4, 0.1]), np.array([True, False, True, False]))
    >>> round(threshold_at_far(roc, 0.4), 3)
    0.7
    """
    index = _last_within(roc, far)
    thresholds = np.append(roc.threshold, -1.0)
    highest = 1.0 if thresholds[index + 1] < 1 - 1e-6 else 1.01
    return float((min(thresholds[index], highest) + thresholds[index + 1]) / 2)


def _last_within(roc: Roc, far: float) -> int:
    return int(np.flatnonzero(roc.far <= far + 1e-12)[-1])


def equal_error_rate(roc: Roc) -> float:
    """The rate at which as many impostor pairs are accepted as genuine ones are rejected; between points, linearly.

    >>> equal_error_rate(measure_roc(np.array([0.9, 0.5, 0.4, 0.1]), np.array([True, False, True, False])))
    0.5
    """
    difference = roc.far - (1 - roc.tar)  # rises from -1 to 1
    after = int(np.flatnonzero(difference >= 0)[0])
    before = max(after - 1, 0)
    rise = difference[after] - difference[before]
    part = -difference[before] / rise if rise > 0 else 0.0
    return float(roc.far[before] + part * (roc.far[after] - roc.far[before]))


class FoldAccuracy(NamedTuple):
    """The accuracy of the decisions in folds.

    Attributes:
        mean: over the folds.
        error: the standard error of that mean, with n - 1.
        folds: the accuracy of each fold.
        thresholds: of each fold, as cosines.
        correct: `(P,)` booleans, whether the decision for a pair was right.
    """

    mean: float
    error: float
    folds: np.ndarray
    thresholds: np.ndarray
    correct: np.ndarray


def fold_accuracy(similarity: np.ndarray, same: np.ndarray, fold: np.ndarray) -> FoldAccuracy:
    """The accuracy by LFW's protocol: the threshold of each fold is the one that is best on all other folds.

    Thresholds are squared distances 0, 0.01, ..., 3.99 between unit embeddings; of equally good ones the smallest is
    taken. A pair is accepted below it.

    Args:
        similarity: `(P,)` cosines.
        same: `(P,)` booleans.
        fold: `(P,)` integers, two or more different ones.

    Raises:
        ValueError: if there are fewer than two folds, or the pairs are not as for `measure_roc`.

    >>> similarity = np.array([0.9, 0.1, 0.9, 0.1])
    >>> result = fold_accuracy(similarity, similarity > 0.5, np.array([0, 0, 1, 1]))
    >>> result.mean, result.error
    (1.0, 0.0)
    """
    similarity, same, _ = _check_pairs(similarity, same, None)
    numbers, members = np.unique(fold, return_inverse=True)
    if len(numbers) < 2:
        raise ValueError(explain_mismatch("two or more folds", str(len(numbers)), "make folds by data.all_pairs"))
    distance = 2 - 2 * similarity
    counts = np.array(
        [np.bincount(members[(distance < t) == same], minlength=len(numbers)) for t in DISTANCE_THRESHOLDS]
    )
    best = [int(np.argmax(np.delete(counts, index, axis=1).sum(1))) for index in range(len(numbers))]
    chosen = (distance < DISTANCE_THRESHOLDS[best][members]) == same
    accuracies = np.array([chosen[members == index].mean() for index in range(len(numbers))])
    error = float(accuracies.std(ddof=1) / np.sqrt(len(numbers)))
    return FoldAccuracy(float(accuracies.mean()), error, accuracies, 1 - DISTANCE_THRESHOLDS[best] / 2, chosen)


def _check_pairs(
    similarity: np.ndarray, same: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    similarity, same = np.asarray(similarity, "float64"), np.asarray(same, bool)
    weight = np.ones(len(same)) if weight is None else np.asarray(weight, "float64")
    if not similarity.shape == same.shape == weight.shape or similarity.ndim != 1:
        shapes = f"shapes {similarity.shape}, {same.shape} and {weight.shape}"
        raise ValueError(explain_mismatch("one similarity, one boolean and one weight for each pair", shapes))
    if not np.isfinite(similarity).all():
        received = f"{np.count_nonzero(~np.isfinite(similarity))} others among {len(similarity)}"
        raise ValueError(explain_mismatch("finite similarities", received, "check the embeddings"))
    if not (weight[same].sum() > 0 and weight[~same].sum() > 0):
        received = f"{np.count_nonzero(same)} genuine and {np.count_nonzero(~same)} impostor pairs"
        raise ValueError(explain_mismatch("genuine and impostor pairs", received))
    return similarity, same, weight
