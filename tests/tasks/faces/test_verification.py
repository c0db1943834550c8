"""Verification, identification and intervals against definitions, pair by pair."""

import itertools

import keras
import numpy as np
import pytest
from scipy.stats import rankdata

from kd_keras import models
from kd_keras.data import Pairs, all_pairs
from kd_keras.tasks.faces.embeddings import embed, pair_similarities
from kd_keras.tasks.faces.evaluation import (
    agreement,
    draw_pair_weights,
    identification,
    intervals,
    measurable_rates,
    verification,
)
from kd_keras.tasks.faces.verification import (
    equal_error_rate,
    fold_accuracy,
    measure_roc,
    tar_at_far,
    threshold_at_far,
)

RANDOM = np.random.default_rng(0)
SAME = RANDOM.random(300) < 0.3
SIMILARITY = np.clip(RANDOM.normal(0.1 + 0.35 * SAME, 0.25), -1, 1).round(2)  # rounded, so that some are equal
IMPOSTORS = np.count_nonzero(~SAME)


def rates_at(threshold):
    accepted = SIMILARITY >= threshold
    return accepted[~SAME].mean(), accepted[SAME].mean()


def vectors(labels, noise, seed, width=6):
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(max(labels) + 1, width))
    x = centers[labels] + noise * random.normal(size=(len(labels), width))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_roc_by_its_definition():
    roc = measure_roc(SIMILARITY, SAME)
    assert roc.far[0] == roc.tar[0] == 0 and roc.far[-1] == roc.tar[-1] == 1
    assert len(roc.threshold) == len(np.unique(SIMILARITY)) + 1
    for threshold, far, tar in zip(*roc, strict=True):
        assert (far, tar) == pytest.approx(rates_at(threshold))
    genuine, impostor = SIMILARITY[SAME], SIMILARITY[~SAME]
    pairs = [float(g > i) + 0.5 * (g == i) for g, i in itertools.product(genuine, impostor)]
    assert roc.area == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("rate", [0.1, 0.01, 1 / IMPOSTORS])
def test_true_accepts_at_a_rate_of_false_ones(rate):
    """By trying every threshold."""
    roc = measure_roc(SIMILARITY, SAME)
    possible = [rates_at(t) for t in [*np.unique(SIMILARITY), 2.0]]
    expected = max(tar for far, tar in possible if far <= rate + 1e-12)
    assert tar_at_far(roc, rate, IMPOSTORS) == pytest.approx(expected)
    far, tar = rates_at(threshold_at_far(roc, rate))
    assert far <= rate + 1e-12 and tar == pytest.approx(expected)


@pytest.mark.parametrize("impostors", [np.linspace(-1, 0.5, 100), np.repeat([0.2, 1.0], [98, 2]), np.ones(100)])
def test_equal_images_under_two_names_do_not_exceed_the_rate(impostors):
    similarity, same = np.append(impostors, np.ones(10)), np.arange(110) >= 100
    threshold = threshold_at_far(measure_roc(similarity, same), 0.01)
    accepted = similarity >= threshold
    assert accepted[~same].mean() <= 0.01 and accepted[same].all() == (impostors.max() < 1)


def test_a_rate_that_the_pairs_cannot_measure_is_refused():
    roc = measure_roc(SIMILARITY, SAME)
    with pytest.raises(ValueError, match=rf"1/{IMPOSTORS}.*far=0.001.*1000 or more"):
        tar_at_far(roc, 1e-3, IMPOSTORS)
    pairs = Pairs(np.zeros(300, int), np.ones(300, int), SAME, np.arange(300) % 3)
    assert measurable_rates(pairs) == (0.1, 0.01)
    with pytest.raises(ValueError, match="impostor"):
        dict(verification(np.eye(2), pairs, rates=(1e-4,)))


def test_the_equal_error_rate():
    roc = measure_roc(SIMILARITY, SAME)
    eer = equal_error_rate(roc)
    gaps = [(abs(far - (1 - tar)), far, 1 - tar) for far, tar in zip(roc.far, roc.tar, strict=True)]
    nearest = sorted(gaps)[:2]
    assert min(min(g[1:]) for g in nearest) - 1e-9 <= eer <= max(max(g[1:]) for g in nearest) + 1e-9
    # Two normal distributions of equal width that are 2 standard deviations apart: the normal distribution at -1.
    x = np.random.default_rng(1).normal(size=400_000)
    same = np.arange(len(x)) % 2 == 0
    assert equal_error_rate(measure_roc((x + 2 * same) / 10, same)) == pytest.approx(0.158655, abs=2e-3)
    perfect = measure_roc(np.array([0.9, 0.8, 0.1]), np.array([True, True, False]))
    assert equal_error_rate(perfect) == 0


def test_the_threshold_of_a_fold_comes_from_the_other_folds():
    fold = np.arange(300) % 5
    result = fold_accuracy(SIMILARITY, SAME, fold)
    accuracies = []
    for number in range(5):
        others, inside = fold != number, fold == number
        best = max((((2 - 2 * SIMILARITY[others] < t) == SAME[others]).sum(), -t) for t in np.arange(0, 4, 0.01))
        accuracies.append(((2 - 2 * SIMILARITY[inside] < -best[1]) == SAME[inside]).mean())
    np.testing.assert_allclose(result.folds, accuracies)
    assert result.mean == pytest.approx(np.mean(accuracies))
    assert result.error == pytest.approx(np.std(accuracies, ddof=1) / 5**0.5)
    assert result.correct.mean() == pytest.approx(result.mean)
    with pytest.raises(ValueError, match="two or more folds"):
        fold_accuracy(SIMILARITY, SAME, np.zeros(300))


def test_a_fold_does_not_choose_its_own_threshold():
    """In fold 1 the best threshold would be another one than in fold 0, and both must fail."""
    similarity = np.array([0.9, 0.8, 0.3, 0.2])
    result = fold_accuracy(similarity, np.array([True, False, True, False]), np.array([0, 0, 1, 1]))
    assert result.folds.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "similarity, same",
    [
        ([0.1, np.nan, 0.2], [True, False, True]),
        ([0.1, 0.2], [True, True]),
        ([0.1, 0.2], [True, False, True]),
    ],
)
def test_pairs_without_a_meaning_raise(similarity, same):
    with pytest.raises(ValueError, match="Expected"):
        measure_roc(np.array(similarity), np.array(same))


def test_identification_by_a_search():
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 3])
    x = vectors(labels, 0.8, seed=3)
    hits = []
    for probe in range(7):  # the single image of identity 3 is in the gallery only
        others = [i for i in range(8) if i != probe]
        hits.append(labels[max(others, key=lambda i: x[i] @ x[probe])] == labels[probe])
    assert dict(identification(x, labels)) == {"rank1": np.mean(hits)}
    with pytest.raises(ValueError, match="two or more images"):
        dict(identification(x, np.arange(8)))


def test_the_weights_of_a_draw_are_those_of_its_copies():
    """A draw as an explicit list of identities, with every pair of copies of different draws."""
    labels = np.repeat(np.arange(4), 3)
    pairs = all_pairs(labels, folds=2)
    weight = next(draw_pair_weights(labels, pairs, 1, seed=5))
    times = np.random.default_rng(5).multinomial(4, np.full(4, 0.25))
    drawn = [identity for identity in range(4) for _ in range(times[identity])]
    expected = np.zeros(len(weight))
    for number, (i, j) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        for place, a in enumerate(drawn):
            expected[number] += pairs.same[number] and labels[i] == a
            for b in drawn[place + 1 :]:
                expected[number] += {labels[i], labels[j]} == {a, b} and a != b
    np.testing.assert_array_equal(weight, expected)


def test_intervals_contain_the_finding_and_grow_with_fewer_identities():
    widths = []
    for count in (8, 40):
        labels = np.repeat(np.arange(count), 4)
        x, pairs = vectors(labels, 0.7, seed=1), all_pairs(labels)
        findings = dict(verification(x, pairs, rates=(0.1,)))
        ends = dict(intervals(x, labels, pairs, rates=(0.1,), resamples=200))
        for name in ("verification_accuracy", "auc", "equal_error_rate", "tar_at_far_0.1"):
            assert ends[f"{name}_low"] <= findings[name] <= ends[f"{name}_high"]
        widths.append(ends["tar_at_far_0.1_high"] - ends["tar_at_far_0.1_low"])
    assert widths[1] < 0.7 * widths[0]


def test_intervals_need_a_label_for_each_embedding():
    labels = np.repeat(np.arange(8), 4)
    with pytest.raises(ValueError, match="a label for each of 32 embeddings, but received 31 labels"):
        dict(intervals(np.eye(32), labels[:31], all_pairs(labels)))


def test_the_difference_of_two_networks_has_an_interval():
    labels = np.repeat(np.arange(20), 4)
    pairs = all_pairs(labels)
    good, bad = vectors(labels, 0.3, seed=1), vectors(labels, 1.0, seed=2)
    ends = dict(intervals(good, labels, pairs, bad, rates=(0.1,), resamples=100))
    findings = [dict(verification(x, pairs, rates=(0.1,)))["tar_at_far_0.1"] for x in (good, bad)]
    assert ends["tar_at_far_0.1_difference"] == pytest.approx(findings[0] - findings[1])
    assert ends["tar_at_far_0.1_difference_low"] > 0
    same = dict(intervals(good, labels, pairs, good, rates=(0.1,), resamples=20))
    assert same["auc_difference_low"] == same["auc_difference_high"] == 0
    with pytest.raises(ValueError, match="three or more identities"):
        dict(intervals(good[:8], labels[:8], all_pairs(labels[:8], folds=2)))


def test_agreement_is_the_correlation_of_ranks():
    labels = np.repeat(np.arange(6), 3)
    pairs, student, teacher = all_pairs(labels), vectors(labels, 0.6, seed=1), vectors(labels, 0.6, seed=2, width=6)
    similarities = [pair_similarities(x, pairs) for x in (student, teacher)]
    for name, chosen in (("", slice(None)), ("_genuine", pairs.same), ("_impostor", ~pairs.same)):
        expected = np.corrcoef(*(rankdata(s[chosen]) for s in similarities))[0, 1]
        assert dict(agreement(student, teacher, pairs))[f"similarity_spearman{name}"] == pytest.approx(expected)


def test_embeddings_are_unit_vectors_of_both_views():
    keras.utils.set_random_seed(0)
    network = models.build("embedder/resnet8", (8, 6, 1), 3, dimension=4)
    images = RANDOM.integers(0, 256, (5, 8, 6, 1)).astype("uint8")
    x, flipped = (np.array(network.embedder(i.astype("float32")), "float64") for i in (images, images[:, :, ::-1]))
    expected = (x + flipped) / np.linalg.norm(x + flipped, axis=-1, keepdims=True)
    np.testing.assert_allclose(embed(network.embedder, images, batch_size=2), expected, atol=1e-5)
    np.testing.assert_allclose(embed(network, images), expected, atol=1e-5)  # with its head
    alone = embed(network, images, flip=False)
    np.testing.assert_allclose(alone, x / np.linalg.norm(x, axis=-1, keepdims=True), atol=1e-5)


def test_what_is_no_embedding_raises():
    maps = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 1)])
    with pytest.raises(ValueError, match=r"embeddings \(B, D\)"):
        embed(maps, np.ones((2, 4, 4, 1)))
    zeros = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="with a direction.*image 1"):
        embed(zeros, np.arange(2)[::-1, None, None, None] * np.ones((2, 4, 4, 1)))
