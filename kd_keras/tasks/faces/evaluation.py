"""The findings about a network of faces: verification, identification, intervals, and agreement with the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import spearmanr

from kd_keras.data import Pairs
from kd_keras.errors import check_whole_number, explain_mismatch
from kd_keras.tasks.faces.embeddings import pair_similarities
from kd_keras.tasks.faces.verification import equal_error_rate, fold_accuracy, measure_roc, tar_at_far
from kd_keras.tasks.findings import interval_of

RATES = (1e-1, 1e-2, 1e-3, 1e-4)
RESAMPLES = 1000


def measurable_rates(pairs: Pairs, rates: Sequence[float] = RATES) -> tuple[float, ...]:
    """Those of some rates of false accepts that are at least 1 / the number of impostor pairs.

    >>> same = np.arange(200) < 100
    >>> measurable_rates(Pairs(np.zeros(200, int), np.ones(200, int), same, np.zeros(200, int)))
    (0.1, 0.01)
    """
    impostors = int(np.count_nonzero(~pairs.same))
    return tuple(rate for rate in rates if rate * impostors >= 1 - 1e-9)


def verification(
    embedding: np.ndarray, pairs: Pairs, rates: Sequence[float] | None = None
) -> Iterator[tuple[str, float]]:
    """Yields what verification measures.

    * `verification_accuracy` and `verification_accuracy_error`, by LFW's protocol, as `fold_accuracy` describes;
    * `auc`, `equal_error_rate`, and for each rate of false accepts `tar_at_far_<rate>`, such as `tar_at_far_0.001`.

    Args:
        embedding: `(N, D)` unit vectors, as `embed` returns them.
        pairs: of these images.
        rates: by default those of 1e-1 to 1e-4 that the number of impostor pairs supports.

    Raises:
        ValueError: if a rate is below 1 / the number of impostor pairs.

    >>> vectors = np.repeat(np.eye(3), 2, axis=0)
    >>> first, second = np.triu_indices(6, 1)
    >>> pairs = Pairs(first, second, first // 2 == second // 2, np.arange(15) % 2)
    >>> dict(verification(vectors, pairs))["tar_at_far_0.1"]
    1.0
    """
    similarity = pair_similarities(embedding, pairs)
    accuracy = fold_accuracy(similarity, pairs.same, pairs.fold)
    yield "verification_accuracy", accuracy.mean
    yield "verification_accuracy_error", accuracy.error
    roc, impostors = measure_roc(similarity, pairs.same), int(np.count_nonzero(~pairs.same))
    yield "auc", roc.area
    yield "equal_error_rate", equal_error_rate(roc)
    for rate in measurable_rates(pairs) if rates is None else rates:
        yield f"tar_at_far_{rate:g}", tar_at_far(roc, rate, impostors)


def identification(embedding: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, float]]:
    """Yields `rank1`: how often the most similar other image shows the same identity.

    Every image of an identity with two or more is searched among all other images. Small sets of clear images are
    saturated: raw pixels reach 0.99 on ORL faces.

    Raises:
        ValueError: if no identity has two images.

    >>> dict(identification(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([0, 0, 1])))
    {'rank1': 1.0}
    """
    labels = np.asarray(labels)
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    is_probe = counts[members] > 1
    if not is_probe.any():
        received = f"{len(counts)} identities with one image each"
        raise ValueError(explain_mismatch("two or more images of some identity", received))
    hits = []
    for begin in range(0, len(labels), 1024):
        rows = slice(begin, begin + 1024)
        similarity = embedding[rows] @ embedding.T
        similarity[np.arange(len(similarity)), np.arange(len(similarity)) + begin] = -np.inf
        hits.append(labels[similarity.argmax(1)] == labels[rows])
    yield "rank1", float(np.concatenate(hits)[is_probe].mean())


def intervals(
    embedding: np.ndarray,
    labels: np.ndarray,
    pairs: Pairs,
    reference: np.ndarray | None = None,
    *,
    rates: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Iterator[tuple[str, float]]:
    """Yields 95 % bootstrap percentile intervals over identities: `<finding>_low` and `<finding>_high`.

    Pairs of one identity are not independent, so identities are drawn with replacement, and not pairs. Of an identity
    that is drawn m times, genuine pairs count m times, and pairs with another that is drawn n times m n times. With
    fewer than about 20 identities the intervals are themselves uncertain, and rather too short.

    Args:
        embedding: `(N, D)` unit vectors.
        labels: `(N,)` the identity of each image.
        pairs: of these images.
        reference: unit embeddings of another network for the same images; if given, `<finding>_difference`, this
            network's finding minus that of the reference, and its interval are yielded too, with the same draws.
        rates: of false accepts, as for `verification`.
        resamples: the number of draws.
        seed: of the draws.

    Raises:
        ValueError: if there are fewer than three identities, another number of labels than of embeddings, or 1000 draws
            in a row without a genuine or an impostor pair.

    >>> vectors, labels = np.repeat(np.eye(3), 2, axis=0), np.repeat(np.arange(3), 2)
    >>> first, second = np.triu_indices(6, 1)
    >>> pairs = Pairs(first, second, labels[first] == labels[second], np.arange(15) % 2)
    >>> dict(intervals(vectors, labels, pairs, resamples=20))["auc_low"]
    1.0
    """
    check_whole_number("intervals", "resamples", resamples)
    if len(labels) != len(embedding):
        raise ValueError(explain_mismatch(f"a label for each of {len(embedding)} embeddings", f"{len(labels)} labels"))
    rates = measurable_rates(pairs) if rates is None else tuple(rates)
    embeddings = [embedding] if reference is None else [embedding, reference]
    similarities = [pair_similarities(vectors, pairs) for vectors in embeddings]
    networks = [(values, fold_accuracy(values, pairs.same, pairs.fold).correct) for values in similarities]
    measured = [_measure(*network, pairs, np.ones(len(pairs.same)), rates) for network in networks]
    resampled = [
        [_measure(*network, pairs, weight, rates) for network in networks]
        for weight in draw_pair_weights(labels, pairs, resamples, seed)
    ]
    values = {name: np.array([draw[0][name] for draw in resampled]) for name in measured[0]}
    if reference is not None:
        for name in measured[0]:
            yield f"{name}_difference", measured[0][name] - measured[1][name]
            values[f"{name}_difference"] = np.array([draw[0][name] - draw[1][name] for draw in resampled])
    for name, column in values.items():
        yield from interval_of(name, column)


def draw_pair_weights(labels: np.ndarray, pairs: Pairs, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each pair counts in each draw of identities, `(P,)`; draws without a pair of a kind are repeated.

    >>> pairs = Pairs(np.array([0, 0, 2]), np.array([1, 2, 4]), np.array([True, False, False]), np.zeros(3, int))
    >>> weights = next(draw_pair_weights(np.array([0, 0, 1, 1, 2]), pairs, 1, seed=0))
    >>> weights.shape, bool(weights[0] > 0)
    ((3,), True)
    """
    identities, members = np.unique(labels, return_inverse=True)
    if len(identities) < 3:
        raise ValueError(explain_mismatch("three or more identities to draw from", str(len(identities))))
    random, count = np.random.default_rng(seed), len(identities)
    first, second = members[pairs.first], members[pairs.second]
    for _ in range(resamples):
        for _ in range(1000):
            times = random.multinomial(count, np.full(count, 1 / count)).astype("float64")
            weight = np.where(pairs.same, times[first], times[first] * times[second])
            if weight[pairs.same].sum() > 0 and weight[~pairs.same].sum() > 0:
                break
        else:
            raise ValueError(explain_mismatch("pairs of both kinds in a draw of identities", "none in 1000 draws"))
        yield weight


def _measure(
    similarity: np.ndarray, correct: np.ndarray, pairs: Pairs, weight: np.ndarray, rates: Sequence[float]
) -> dict[str, float]:
    """The findings for weighted pairs; the accuracy is that of the decisions by the thresholds of all pairs."""
    roc, impostors = measure_roc(similarity, pairs.same, weight), int(np.count_nonzero(~pairs.same))
    findings = {
        "verification_accuracy": float(np.average(correct, weights=weight)),
        "auc": roc.area,
        "equal_error_rate": equal_error_rate(roc),
    }
    return findings | {f"tar_at_far_{rate:g}": tar_at_far(roc, rate, impostors) for rate in rates}


def agreement(embedding: np.ndarray, teacher: np.ndarray, pairs: Pairs) -> Iterator[tuple[str, float]]:
    """Yields how far a student orders pairs as the teacher does: `similarity_spearman`, from -1 to 1.

    It is the rank correlation of both networks' similarities over all pairs; `similarity_spearman_genuine` and
    `..._impostor` are those within each kind, which are lower, because most of the order is between the kinds.

    Args:
        embedding: the student's unit vectors `(N, D)`.
        teacher: the teacher's `(N, D')`.
        pairs: of these images.

    >>> vectors = np.random.default_rng(0).normal(size=(8, 3))
    >>> vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    >>> first, second = np.triu_indices(8, 1)
    >>> pairs = Pairs(first, second, first % 2 == second % 2, np.zeros(28, int))
    >>> round(dict(agreement(vectors, vectors, pairs))["similarity_spearman"], 6)
    1.0
    """
    similarities = [pair_similarities(vectors, pairs) for vectors in (embedding, teacher)]
    kinds = {"": np.ones(len(pairs.same), bool), "_genuine": pairs.same, "_impostor": ~pairs.same}
    for name, chosen in kinds.items():
        if np.count_nonzero(chosen) > 1:
            correlation = spearmanr(*(similarity[chosen] for similarity in similarities)).statistic
            yield f"similarity_spearman{name}", float(correlation)
