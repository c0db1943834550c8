"""The gap, separation from another dataset, and accuracy by number of training images."""

import numpy as np
import pytest

from kd_keras.evaluation import Predictions, SizedRun, generalization, group_by_training_size

RANDOM = np.random.default_rng(0)


def drawn(count, scale):
    return Predictions((scale * RANDOM.normal(size=(count, 4))).astype("float32"), RANDOM.integers(0, 4, count))


def area(known, other):
    """The share of pairs in which the known image has the higher score; ties count half."""
    return np.mean([(a > b) + (a == b) / 2 for a in known for b in other])


def test_the_areas_are_shares_of_pairs_in_the_right_order():
    test, other = drawn(40, 3.0), drawn(30, 1.5)
    findings = dict(generalization(test, other=other._replace(labels=None)))
    exps = [np.exp(model.logits.astype("float64")) for model in (test, other)]
    assert findings["auroc_probability"] == pytest.approx(area(*[e.max(-1) / e.sum(-1) for e in exps]))
    assert findings["auroc_energy"] == pytest.approx(area(*[np.log(e.sum(-1)) for e in exps]))
    assert 0.55 < findings["auroc_probability"] < 1 and findings["auroc_probability"] != findings["auroc_energy"]
    same = dict(generalization(test, other=test))
    assert same == pytest.approx({"auroc_probability": 0.5, "auroc_energy": 0.5})


def test_logarithms_of_probabilities_have_no_energy():
    test, other = (
        model._replace(logits=model.logits - np.log(np.exp(model.logits).sum(-1, keepdims=True)))
        for model in (drawn(40, 3.0), drawn(30, 1.5))
    )
    findings = dict(generalization(test, other=other))
    assert findings.keys() == {"auroc_probability"}
    assert findings["auroc_probability"] > 0.55


def test_the_gap():
    labels = np.arange(4)
    train, test = Predictions(np.eye(4), labels), Predictions(np.eye(4)[[0, 1, 2, 0]], labels)
    assert dict(generalization(test, train)) == {"accuracy_train": 1.0, "gap": 0.25}
    assert dict(generalization(test)) == dict(generalization(test, train._replace(labels=None))) == {}


def test_runs_that_differ_only_in_their_training_images_are_grouped():
    def run(split, size, accuracy, **others):
        return SizedRun({"train_split": split, "dataset": "digits", **others}, size, accuracy)

    runs = {"all": run("train", 1000, 0.97), "few": run("train[:100]", 100, 0.8), "some": run("train[:300]", 300, 0.9)}
    runs |= {"distilled": run("train[:100]", 100, 0.85, method="kd"), "again": run("train", 1000, 0.96)}
    rows = [("few", 100, 0.8), ("some", 300, 0.9), ("all", 1000, 0.97), ("again", 1000, 0.96)]
    assert group_by_training_size(runs) == [rows]
    runs["distilled on all"] = run("train", 1000, 0.98, method="kd")
    assert group_by_training_size(runs)[1] == [("distilled", 100, 0.85), ("distilled on all", 1000, 0.98)]
    assert group_by_training_size({"one": runs["all"], "again": runs["again"]}) == []
