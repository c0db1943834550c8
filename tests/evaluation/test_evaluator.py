"""Which images each question is asked about, and what becomes of one that does not fit a network."""

import math

import numpy as np
import pytest
import tensorflow as tf

from experiments.findings import plain, sentence, table
from experiments.inquiry import Candidate, Inquiry, asked_questions, thinned, training_images, with_channels
from kd_keras import evaluation, models
from kd_keras.data import Source
from kd_keras.data.corruptions import CORRUPTIONS
from tests.support.networks import CLASSES, SHAPE, convolutional, source

CHEAP = {"accuracy", "accuracy_by_class", "confusion", "agreement", "kl", "agreement_by_class", "kl_by_class"}
CHEAP |= {"only_teacher_right", "only_student_right", "accuracy_low", "accuracy_high", "nll", "ece", "brier"}
CHEAP |= {"reliability", "temperature", "nll_scaled", "ece_scaled", "brier_scaled", "reliability_scaled", "parameters"}
CHEAP |= {"macs", "kilobytes", "milliseconds", "milliseconds_p95", "milliseconds_32", "milliseconds_32_p95"}
PAIRED = {"difference", "difference_low", "difference_high", "mcnemar"}
ASKED = {f"error_{name}" for name in CORRUPTIONS} | {"corruption_error", "mce", "auroc_probability", "auroc_energy"}
INSIDE = {"attention_correlation", "attention_overlap", "cka"}
QUESTIONS = ("robustness", "generalisation", "attention", "similarity")


def grey(count=9):
    """Random grey images of another size, without labels."""
    images = np.random.default_rng(5).integers(0, 256, (count, 5, 6, 1)).astype("uint8")
    columns = {"image": images, "index": np.arange(count)}
    return Source(tf.data.Dataset.from_tensor_slices(columns), "grey", count, None, None, (5, 6, 1))


@pytest.fixture(scope="module")
def inquiry(tmp_path_factory):
    place = tmp_path_factory.mktemp("networks")
    networks = {"teacher": convolutional(6), "student": convolutional(4), "mlp": models.build("mlp", SHAPE, CLASSES)}
    asked = Inquiry(source(37), QUESTIONS, batch_size=16, examples=20, other=grey())
    for name, network in networks.items():
        network.save(place / f"{name}.keras")
        asked.ask(Candidate.load(str(place / f"{name}.keras")))
    asked.time_in_turns()
    asked.findings, asked.answers, asked.maps = (
        {run.rsplit("/", 1)[1]: each for run, each in kept.items()}
        for kept in (asked.findings, asked.answers, asked.maps)
    )
    return asked, networks


def test_the_names_of_what_is_found(inquiry):
    found = inquiry[0].findings
    assert set(found["teacher.keras"]) == CHEAP | ASKED | INSIDE
    assert set(found["student.keras"]) == CHEAP | PAIRED | ASKED | INSIDE
    assert set(found["mlp.keras"]) == CHEAP | PAIRED | ASKED  # it has no maps to look at
    assert [found["teacher.keras"][name] for name in ("agreement", "mce", "kl")] == [1, 1, pytest.approx(0, abs=1e-6)]
    assert found["teacher.keras"]["attention_correlation"] == pytest.approx(1)
    assert found["teacher.keras"]["cka"].diagonal() == pytest.approx(np.ones(2))


def test_each_question_is_asked_about_its_images(inquiry):
    asked, networks = inquiry
    student, found = networks["student"], asked.findings["student.keras"]
    columns = list(source(37).examples.as_numpy_iterator())
    images, labels = (np.stack([each[key] for each in columns]) for key in ("image", "label"))
    logits = np.array(student(images / np.float32(255)))
    np.testing.assert_allclose(asked.answers["student.keras"].logits, logits, atol=1e-5)
    np.testing.assert_array_equal(asked.sample[0], images[::2])
    np.testing.assert_array_equal(asked.sample[1], labels[::2])
    measured = evaluation.Predictions(logits[1::2], labels[1::2]), evaluation.Predictions(logits[::2], labels[::2])
    for name, value in evaluation.calibration(*measured):
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4)
    others = np.stack([each["image"] for each in grey().examples.as_numpy_iterator()])
    others = np.repeat(tf.round(tf.image.resize(others, SHAPE[:2], antialias=True)), 3, -1) / np.float32(255)
    both = [evaluation.Predictions(np.array(each), None) for each in (logits, student(others))]
    for name, value in evaluation.generalization(both[0], other=both[1]):
        assert found[name] == pytest.approx(value, abs=1e-3)
    chosen = np.array(networks["teacher"](images[::2] / np.float32(255))).argmax(-1)
    maps = evaluation.attention_maps(student, images[::2], chosen)
    np.testing.assert_allclose(asked.maps["student.keras"], maps, atol=1e-5)


def test_what_does_not_fit_is_left_out_with_its_reason(inquiry, capsys, tmp_path):
    network = models.build("mlp", SHAPE, CLASSES)
    network.save(tmp_path / "mlp.keras")
    asked = Inquiry(source(8), ("generalisation", "attention"), batch_size=8)
    asked.ask(Candidate.load(str(tmp_path / "mlp.keras")))
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" of ")[0] for line in said] == ["gap", "attention"] and all("left out" in line for line in said)
    assert "flags.txt" in said[0] and "stages" in said[1] and asked.findings[str(tmp_path / "mlp.keras")]["ece"] >= 0
    models.build("mlp", SHAPE, 3).save(tmp_path / "three.keras")
    with pytest.raises(ValueError, match="5 classes"):
        asked.ask(Candidate.load(str(tmp_path / "three.keras")))


def test_the_questions_that_demands_are_about():
    assert asked_questions([], [], None) == () and asked_questions(["all"], [], None) == (*QUESTIONS, "memory")
    assert asked_questions(["similarity"], ["max_mce", "min_accuracy"], None) == ("robustness", "similarity")
    assert asked_questions([], ["min_auroc"], "mnist") == ("generalisation",)
    with pytest.raises(ValueError, match="--other_dataset"):
        asked_questions(["all"], ["min_auroc"], None)
    with pytest.raises(ValueError, match="did you mean robustness"):
        asked_questions(["robustnes"], [], None)


def test_images_are_thinned_evenly():
    few = thinned(source(37), 10)
    numbers = [int(each["index"]) for each in few.examples]
    assert numbers == list(range(0, 37, 4)) and few.size == len(numbers) == 10
    assert thinned(source(37), 37).size == 37 and thinned(source(37), 36).size == 19


def test_channels():
    colour = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype("float32")
    one = with_channels(tf.constant(colour), 1)
    np.testing.assert_allclose(one[..., 0], colour @ np.array([0.2989, 0.587, 0.114], "float32"), atol=1e-3)
    assert with_channels(one, 3).shape == (2, 4, 4, 3) and with_channels(one, 1) is one


def test_a_run_names_its_training_images(tmp_path):
    flags = ["--dataset=digits", f"--data_dir={tmp_path / 'data'}", "--train_split=train[:30]"]
    (tmp_path / "flags.txt").write_text("\n".join(flags))
    assert training_images(str(tmp_path), None).size == 30


def test_texts():
    row = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "parameters": 1234, "mce": 1.25}
    assert table({"one": row}).endswith("| one | 1,234 | - | 0.5000 | - | - | - | - | 1.2500 |")
    assert sentence("one", row) == "one: accuracy 0.5000 (95 %: 0.4000 to 0.6000)."
    assert "no labels" in sentence("one", {})
    found = {"one": {"a": np.array([[1.0, math.nan]]), "b": np.float64(2), "c": math.nan, "d": 3}}
    assert plain(found) == {"one": {"a": [[1.0, None]], "b": 2.0, "c": None, "d": 3}}
