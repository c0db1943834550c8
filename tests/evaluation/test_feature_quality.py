"""Nearest neighbors and the linear probe against plain loops and scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from kd_keras.evaluation.feature_quality import linear_probe_accuracy, nearest_neighbors_accuracy


def clusters(count, seed, spread=1.0, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centers = np.random.default_rng(0).normal(size=(classes, 6))
    return (centers[labels] + spread * rng.normal(size=(count, 6))).astype("float32"), labels


def reference(train, train_labels, test, test_labels, neighbors, temperature):
    """One test image after the other."""
    right = 0
    for vector, label in zip(test.astype("float64"), test_labels, strict=True):
        cosines = [t @ vector / np.linalg.norm(t) / np.linalg.norm(vector) for t in train.astype("float64")]
        votes = np.zeros(train_labels.max() + 1)
        for place in np.argsort(cosines)[::-1][:neighbors]:
            votes[train_labels[place]] += np.exp(cosines[place] / temperature)
        right += votes.argmax() == label
    return right / len(test)


@pytest.mark.parametrize("neighbors, temperature", [(1, 0.07), (20, 0.07), (20, 1.0), (500, 0.5)])
def test_the_weighted_vote(neighbors, temperature):
    arguments = (*clusters(150, 1), *clusters(90, 2))
    options = {"neighbors": neighbors, "temperature": temperature}
    expected = reference(*arguments, **options)
    assert nearest_neighbors_accuracy(*arguments, **options) == pytest.approx(expected)
    assert 0.3 < expected < 1


def test_one_neighbor_is_that_of_scikit_learn():
    train, labels, test, test_labels = (*clusters(100, 1), *clusters(60, 2))
    expected = KNeighborsClassifier(1, metric="cosine").fit(train, labels).score(test, test_labels)
    assert nearest_neighbors_accuracy(train, labels, test, test_labels, neighbors=1) == pytest.approx(expected)


def test_many_test_images_are_taken_in_blocks(monkeypatch):
    arguments = (*clusters(50, 1), *clusters(70, 2))
    whole = nearest_neighbors_accuracy(*arguments)
    monkeypatch.setattr("kd_keras.evaluation.feature_quality.BLOCK", 16)
    assert nearest_neighbors_accuracy(*arguments) == whole


def test_the_probe_is_a_logistic_regression_of_scaled_dimensions():
    train, labels, test, test_labels = (*clusters(200, 1, 0.5), *clusters(100, 2, 0.5))
    scaled = [
        (x.astype("float64") - train.mean(0, dtype="float64")) / train.std(0, dtype="float64") for x in (train, test)
    ]
    expected = LogisticRegression(max_iter=1000).fit(scaled[0], labels).score(scaled[1], test_labels)
    assert linear_probe_accuracy(train, labels, test, test_labels) == pytest.approx(expected, abs=0.011)
    assert expected > 0.6
    stretched = linear_probe_accuracy(1000 * train + 7, labels, 1000 * test + 7, test_labels)
    assert stretched == pytest.approx(expected, abs=0.011)


def test_features_without_information_are_at_chance():
    rng = np.random.default_rng(0)
    arguments = (rng.normal(size=(400, 6)), rng.integers(0, 4, 400), rng.normal(size=(400, 6)), rng.integers(0, 4, 400))
    for function in (nearest_neighbors_accuracy, linear_probe_accuracy):
        assert 0.15 < function(*arguments) < 0.35


def test_zero_vectors_and_wrong_arguments():
    train, labels, test, test_labels = (*clusters(20, 1), *clusters(10, 2))
    assert 0 <= nearest_neighbors_accuracy(0 * train, labels, test, test_labels) <= 1
    for wrong in ({"neighbors": 0}, {"temperature": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            nearest_neighbors_accuracy(train, labels, test, test_labels, **wrong)
    with pytest.raises(ValueError, match=r"embeddings \(N, D\)"):
        nearest_neighbors_accuracy(train, labels[:-1], test, test_labels)
    with pytest.raises(ValueError, match="two or more classes"):
        linear_probe_accuracy(train, 0 * labels, test, test_labels)
