"""The evaluator: the images of each question, and questions that do not apply to a network."""

import logging
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import evaluation, models
from kd_keras.data import Source
from kd_keras.data.corruptions import CORRUPTIONS
from kd_keras.data.selection import take_evenly
from kd_keras.evaluation import Candidate, Evaluator, select_questions
from kd_keras.evaluation.images import order_classes, to_channels
from kd_keras.evaluation.text import describe, findings_table, size_tables, to_json
from tests.support.networks import CLASSES, SHAPE, convolutional, source

CHEAP = {"accuracy", "accuracy_by_class", "confusion", "agreement", "kl", "agreement_by_class", "kl_by_class"}
CHEAP |= {"only_teacher_correct", "only_student_correct", "accuracy_low", "accuracy_high", "nll", "ece", "brier"}
CHEAP |= {"reliability", "temperature", "nll_scaled", "ece_scaled", "brier_scaled", "reliability_scaled", "parameters"}
CHEAP |= {"macs", "kilobytes", "milliseconds", "milliseconds_p95", "milliseconds_32", "milliseconds_32_p95"}
PAIRED = {"difference", "difference_low", "difference_high", "mcnemar"}
ASKED = {f"error_{name}" for name in CORRUPTIONS} | {"corruption_error", "mce", "auroc_probability", "auroc_energy"}
INSIDE = {"attention_correlation", "attention_overlap", "cka"}
QUESTIONS = ("robustness", "generalization", "attention", "similarity")


def gray(count=9):
    """Random gray images of another size, without labels."""
    images = np.random.default_rng(5).integers(0, 256, (count, 5, 6, 1)).astype("uint8")
    columns = {"image": images, "index": np.arange(count)}
    return Source(tf.data.Dataset.from_tensor_slices(columns), "gray", count, None, None, (5, 6, 1))


def scaled(width):
    """A small network that reads pixel values from 0 to 255."""
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Rescaling(1 / 255), convolutional(width)])


@pytest.fixture(scope="module")
def evaluated():
    networks = {"teacher": scaled(6), "student": scaled(4), "mlp": models.build("mlp", SHAPE, CLASSES)}
    evaluator = Evaluator(source(37), QUESTIONS, batch_size=16, examples=20, other=gray())
    evaluator.evaluate(Candidate(name, network, kilobytes=12.5) for name, network in networks.items())
    evaluator.measure_latency()
    return evaluator, networks


def test_the_names_of_the_findings(evaluated):
    findings = evaluated[0].findings
    assert set(findings["teacher"]) == CHEAP | ASKED | INSIDE
    assert set(findings["student"]) == CHEAP | PAIRED | ASKED | INSIDE
    assert set(findings["mlp"]) == CHEAP | PAIRED | ASKED  # it has no maps
    assert [findings["teacher"][name] for name in ("agreement", "mce", "kl")] == [1, 1, pytest.approx(0, abs=1e-6)]
    assert findings["teacher"]["attention_correlation"] == pytest.approx(1)
    assert findings["teacher"]["cka"].diagonal() == pytest.approx(np.ones(2))


def test_each_question_uses_its_images(evaluated):
    evaluator, networks = evaluated
    student, findings = networks["student"], evaluator.findings["student"]
    columns = list(source(37).examples.as_numpy_iterator())
    images, labels = (np.stack([example[key] for example in columns]) for key in ("image", "label"))
    logits = np.array(student(images.astype("float32")))
    np.testing.assert_allclose(evaluator.predictions["student"].logits, logits, atol=1e-5)
    np.testing.assert_array_equal(evaluator.sample[0], images[::2])
    np.testing.assert_array_equal(evaluator.sample[1], labels[::2])
    measured = evaluation.Predictions(logits[1::2], labels[1::2]), evaluation.Predictions(logits[::2], labels[::2])
    for name, value in evaluation.calibration(*measured):
        np.testing.assert_allclose(findings[name], value, rtol=1e-3, atol=1e-4)
    others = np.stack([example["image"] for example in gray().examples.as_numpy_iterator()])
    others = np.repeat(tf.round(tf.image.resize(others, SHAPE[:2], antialias=True)), 3, -1)
    both = [evaluation.Predictions(np.array(values), None) for values in (logits, student(others))]
    for name, value in evaluation.generalization(both[0], other=both[1]):
        assert findings[name] == pytest.approx(value, abs=1e-3)
    classes = np.array(networks["teacher"](images[::2].astype("float32"))).argmax(-1)
    maps = evaluation.attention_maps(student, images[::2], classes)
    np.testing.assert_allclose(evaluator.attention_maps["student"], maps, atol=1e-5)


def test_a_question_that_does_not_apply_is_left_out_with_its_reason(caplog):
    evaluator = Evaluator(source(8), ("generalization", "attention"), batch_size=8)
    with caplog.at_level(logging.INFO, "kd_keras"):
        evaluator.evaluate([Candidate("mlp", models.build("mlp", SHAPE, CLASSES))])
    lines = [record.getMessage() for record in caplog.records]
    assert lines[::2] == ["  generalization of mlp", "  attention of mlp"]  # the progress
    lines = lines[1::2]
    assert [line.split(" of ")[0] for line in lines] == ["gap", "attention"]
    assert all("mlp is left out" in line for line in lines)
    assert "training images" in lines[0] and "stages" in lines[1] and evaluator.findings["mlp"]["ece"] >= 0
    with pytest.raises(ValueError, match="three must have the 5 classes of the images of random, but it has 3"):
        evaluator.evaluate([Candidate("three", models.build("mlp", SHAPE, 3))])


def test_the_questions_that_requirements_need():
    assert select_questions([]) == () and select_questions(["all"]) == (*QUESTIONS, "memory", "int8")
    assert select_questions(["similarity"], ["max_mce", "min_accuracy"]) == ("robustness", "similarity")
    assert select_questions([], ["min_auroc"], with_other=True) == ("generalization",)
    with pytest.raises(ValueError, match="other_data="):
        select_questions(["all"], ["min_auroc"])
    with pytest.raises(ValueError, match="did you mean robustness"):
        select_questions(["robustnes"])


def test_examples_are_taken_evenly():
    few = take_evenly(source(37), 10)
    numbers = [int(example["index"]) for example in few.examples]
    assert numbers == list(range(0, 37, 4)) and few.size == len(numbers) == 10
    assert take_evenly(source(37), 37).size == 37 and take_evenly(source(37), 36).size == 19


def test_the_order_of_classes():
    assert order_classes(["a", "b", "c"], ["c", "a"]) == [2, 0] and order_classes(None, ["a"]) is None
    with pytest.raises(ValueError, match=r"lacks \['d'\]"):
        order_classes(["a", "b"], ["a", "d"])


def test_channels():
    color = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype("float32")
    one = to_channels(tf.constant(color), 1)
    np.testing.assert_allclose(one[..., 0], color @ np.array([0.2989, 0.587, 0.114], "float32"), atol=1e-3)
    assert to_channels(one, 3).shape == (2, 4, 4, 3) and to_channels(one, 1) is one


def test_findings_as_text():
    row = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "parameters": 1234, "mce": 1.25}
    assert findings_table({"one": row}).endswith("| one | 1,234 | - | 0.5000 | - | - | - | - | 1.2500 |")
    assert describe("one", row) == "one: accuracy 0.5000 (95 %: 0.4000 to 0.6000)."
    assert "no labels" in describe("one", {})
    findings = {"one": {"a": np.array([[1.0, math.nan]]), "b": np.float64(2), "c": math.nan, "d": 3}}
    assert to_json(findings) == {"one": {"a": [[1.0, None]], "b": 2.0, "c": None, "d": 3}}
    runs = {
        f"train[:{size}]": evaluation.SizedRun({"train_split": f"train[:{size}]"}, size, size / 100) for size in (9, 8)
    }
    assert size_tables(runs)[0].splitlines()[2:] == ["| train[:8] | 8 | 0.0800 |", "| train[:9] | 9 | 0.0900 |"]
