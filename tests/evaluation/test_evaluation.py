"""Accuracy, agreement and cost against counts made by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import top_k_accuracy_score

from kd_keras import Teacher
from kd_keras.evaluation import Predictions, accuracy, agreement, cost, halves, latency, predict
from tests.support.networks import CLASSES, convolutional, examples
from tests.support.reference import log_softmax

X, Y = examples(10)


def test_predictions_are_the_logits_of_every_example_in_order():
    model = keras.Sequential([keras.Input(X.shape[1:]), convolutional(), keras.layers.Softmax()])
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    predictions = predict(model, data)
    np.testing.assert_allclose(predictions.logits, model.layers[0](X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predictions.labels, Y)
    one_hot = predict(model, data.map(lambda x, y: (x, tf.one_hot(y, CLASSES))))
    np.testing.assert_array_equal(one_hot.labels, Y)
    assert predict(model, data.map(lambda x, y: x)).labels is None
    shifted = predict(model, data, preprocess=lambda images: images + 1)
    np.testing.assert_allclose(shifted.logits, model.layers[0](X + 1), rtol=1e-5, atol=1e-6)
    assert predict(Teacher([convolutional(), convolutional()]), data).logits.shape == (10, CLASSES)


def drawn(count=50, classes=7, seed=0, missing=2):
    """Random predictions of two models for the same examples, of which none is of the class `missing`."""
    random = np.random.default_rng(seed)
    labels = random.choice([kind for kind in range(classes) if kind != missing], count)
    one, other = (random.normal(size=(count, classes)).astype("float32") for _ in range(2))
    return Predictions(one, labels), Predictions(other + 2 * np.eye(classes, dtype="float32")[labels], labels)


def test_accuracy_by_class_and_confusion():
    model, _ = drawn()
    findings = dict(accuracy(model))
    chosen = [max(range(7), key=row.__getitem__) for row in model.logits]
    counts = np.zeros((7, 7), int)
    for label, choice in zip(model.labels, chosen, strict=True):
        counts[label, choice] += 1
    np.testing.assert_array_equal(findings["confusion"], counts)
    assert findings["accuracy"] == pytest.approx(counts.trace() / 50) and 0 < counts.trace() < 50
    for kind in range(7):
        is_correct = [choice == kind for choice, label in zip(chosen, model.labels, strict=True) if label == kind]
        assert findings["accuracy_by_class"][kind] == pytest.approx(
            np.mean(is_correct) if is_correct else np.nan, nan_ok=True
        )
    assert np.isnan(findings["accuracy_by_class"][2])
    assert findings["top5"] == pytest.approx(top_k_accuracy_score(model.labels, model.logits, k=5, labels=range(7)))
    assert dict(accuracy(Predictions(model.logits, None))) == {}
    assert "top5" not in dict(accuracy(Predictions(np.eye(5), np.arange(5))))
    assert (
        dict(accuracy(Predictions(np.zeros((2, 6)), np.array([4, 5]))))["top5"] == 0.5
    )  # of equal logits the first five
    for wrong in (-1, 7):
        with pytest.raises(ValueError, match="0 to 6"):
            dict(accuracy(Predictions(model.logits[:1], np.array([wrong]))))


def test_agreement_by_class_and_which_model_alone_is_correct():
    student, teacher = drawn()
    findings = dict(agreement(student, teacher))
    says, wants = ([max(range(7), key=row.__getitem__) for row in model.logits] for model in (student, teacher))
    assert findings["agreement"] == pytest.approx(np.mean([a == b for a, b in zip(says, wants, strict=True)]))
    p = log_softmax(teacher.logits)
    kl = (np.exp(p) * (p - log_softmax(student.logits))).sum(-1)
    assert findings["kl"] == pytest.approx(kl.mean(), rel=1e-5)
    only = [
        sum(a != y == b for a, b, y in zip(*pair, student.labels, strict=True)) / 50
        for pair in ((says, wants), (wants, says))
    ]
    assert [findings["only_teacher_correct"], findings["only_student_correct"]] == pytest.approx(only) and min(only) > 0
    bare = Predictions(student.logits, None), Predictions(teacher.logits, None)
    unlabeled = dict(agreement(*bare))
    assert "only_teacher_correct" not in unlabeled
    for values, by in ((findings, student.labels), (unlabeled, np.array(wants))):
        for kind in range(7):
            of_kind = by == kind
            if not of_kind.any():
                assert np.isnan(values["kl_by_class"][kind]) and np.isnan(values["agreement_by_class"][kind])
                continue
            assert values["kl_by_class"][kind] == pytest.approx(kl[of_kind].mean(), rel=1e-5)
            assert values["agreement_by_class"][kind] == pytest.approx((np.array(says) == wants)[of_kind].mean())
    with pytest.raises(ValueError, match="same examples"):
        dict(agreement(student, Predictions(teacher.logits[:9], None)))
    with pytest.raises(ValueError, match="in the same order"):
        dict(agreement(student, teacher._replace(labels=teacher.labels[::-1])))


def test_halves_contain_every_example_once_and_every_class_of_sorted_data():
    model = Predictions(np.arange(14.0).reshape(7, 2), np.array([0, 0, 0, 0, 1, 1, 1]))
    even, odd = halves(model)
    assert sorted([*even.logits[:, 0], *odd.logits[:, 0]]) == model.logits[:, 0].tolist()
    assert set(even.labels) == set(odd.labels) == {0, 1} and halves(Predictions(np.eye(3), None))[0].labels is None


def test_cost_counts_parameters_and_time():
    small, large = convolutional(2), convolutional(64)
    of_small, of_large = dict(cost(small)), dict(cost(large))
    assert of_small["parameters"] == 3 * 9 * 2 + 2 + 2 * 9 * 4 + 4 + 4 * CLASSES + CLASSES
    assert of_large["parameters"] > of_small["parameters"]
    times = latency({"small": (small, X), "large": (large, X), "again": (small, X)}, runs=20)
    assert times["small"]["milliseconds_32"] < times["large"]["milliseconds_32"]
    for time in times.values():
        assert 0 < time["milliseconds"] <= time["milliseconds_p95"]
        assert 0 < time["milliseconds_32"] <= time["milliseconds_32_p95"]


def test_predictions_that_are_not_finite_are_refused():
    model = convolutional(name="broken")
    model.layers[-1].bias.assign(np.full(CLASSES, np.nan))
    with pytest.raises(ValueError, match="finite outputs of 'broken', but received NaN or infinity"):
        predict(model, tf.data.Dataset.from_tensor_slices((X, Y)).batch(4))
