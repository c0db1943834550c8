"""Schemes without a teacher: the virtual teacher as label smoothing, the past student, and the mean teacher."""

import keras
import numpy as np
import pytest

import kd_keras as kd
from kd_keras import data, schemes
from kd_keras.schemes.self_teaching import consistency_weights, past_student_weights
from tests.support.reference import log_softmax

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]
FUNCTIONS = {"past": schemes.train_with_past_student, "mean": schemes.train_with_mean_teacher}
STUDENT = "mlp(hidden=(8,), dropout=0.5)"


@pytest.mark.parametrize("classes, accuracy, share", [(10, 0.9, 0.9), (100, 0.99, 0.4), (3, 0.5, 1.0), (5, 1.0, 0.5)])
def test_the_virtual_teacher_is_label_smoothing_up_to_its_entropy(classes, accuracy, share):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(64, classes)) * 3, random.integers(0, classes, 64)
    log_p, y = log_softmax(logits), np.eye(classes)[labels]
    teacher = np.where(y == 1, accuracy, (1 - accuracy) / (classes - 1))
    entropy_terms = np.where(teacher > 0, teacher * np.log(np.maximum(teacher, 1e-300)), 0.0)
    kl = (entropy_terms - teacher * log_p).sum(-1)
    expected = (1 - share) * -(y * log_p).sum(-1) + share * kl - share * entropy_terms.sum(-1)
    smoothing = schemes.virtual_teacher_smoothing(classes, accuracy=accuracy, share=share)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    np.testing.assert_allclose(loss(y.astype("float32"), logits.astype("float32")), expected, rtol=1e-5)


def test_invalid_virtual_teachers_are_refused(small, tmp_path):
    for options in ({"accuracy": 0.1}, {"accuracy": 1.1}, {"share": 2}, {"label_smoothing": 0.1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            schemes.train_with_virtual_teacher(student="mlp(hidden=(4,))", **small, **options, run=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_the_weights_of_the_epochs():
    hard, soft = past_student_weights(10, 0.8)
    assert (hard[0], soft[0]) == (1.0, 0.0) and soft[9] == pytest.approx(0.8) and soft[4] == pytest.approx(0.8 * 5 / 10)
    assert all(hard[epoch] + soft[epoch] == pytest.approx(1) for epoch in range(10))
    weights = consistency_weights(10, 3.0, rampup_epochs=5)
    expected = [3 * np.exp(-5 * (1 - min(t / 5, 1)) ** 2) for t in range(6)]
    np.testing.assert_allclose([weights[t] for t in range(6)], expected)
    assert consistency_weights(3, 3.0, rampup_epochs=0) == {0: 3.0}


def test_the_loss_of_the_past_student_is_that_of_the_paper():
    """(1 - a) CE(y, p) + a KL(past || p) is CE((1 - a) y + a past, p) without the entropy of the past predictions."""
    random = np.random.default_rng(0)
    log_p, past = log_softmax(random.normal(size=(6, 4))), np.exp(log_softmax(random.normal(size=(6, 4))))
    y, (hard, soft) = np.eye(4)[random.integers(0, 4, 6)], (weights[3] for weights in past_student_weights(5, 0.8))
    paper = -(((1 - 0.8 * 4 / 5) * y + 0.8 * 4 / 5 * past) * log_p).sum(-1)
    ours = hard * -(y * log_p).sum(-1) + soft * (past * (np.log(past) - log_p)).sum(-1)
    np.testing.assert_allclose(ours - paper, soft * (past * np.log(past)).sum(-1))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_interrupted_scheme_resumes_and_equals_a_whole_one(name, small, tmp_path, interrupt):
    options = {**small, "epochs": 3, "shift": 1, "student": STUDENT}
    whole = FUNCTIONS[name](**options, run=tmp_path / "whole").student
    patch = interrupt("stopped")
    with pytest.raises(KeyboardInterrupt):
        FUNCTIONS[name](**options, run=tmp_path / "stopped")
    patch.undo()
    assert not kd.Run(tmp_path / "stopped").is_complete
    resumed = FUNCTIONS[name](**options, run=tmp_path / "stopped").student
    np.testing.assert_array_equal(resumed.history["kd"], whole.history["kd"])
    files = ["model.keras"] + ["teacher.keras"] * (name == "mean")
    for file in files:
        pairs = zip(*(keras.saving.load_model(run.path / file).get_weights() for run in (whole, resumed)), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), file
    with pytest.raises(ValueError, match="has other settings"):
        FUNCTIONS[name](**{**options, "epochs": 4}, run=tmp_path / "whole")


def test_the_mean_teacher_is_saved_with_its_accuracy(small, tmp_path):
    options = {**small, "student": "mlp(hidden=(8,))", "decay": 0.5, "rampup_epochs": 0}
    run = schemes.train_with_mean_teacher(**options, run=tmp_path / "run").student
    examples = list(data.load("digits", "test[:64]", small["data_dir"]).examples.as_numpy_iterator())
    images = np.stack([example["image"] for example in examples]).astype("float32")
    labels = np.array([example["label"] for example in examples])
    average = keras.saving.load_model(run.path / "teacher.keras")
    right = (np.array(average(images)).argmax(-1) == labels).mean()
    assert run.result["averaged_accuracy"] == pytest.approx(right, abs=1e-6)
    student = run.model()
    assert any(not np.array_equal(a, b) for a, b in zip(average.get_weights(), student.get_weights(), strict=True))
    assert run.settings["decay"] == "0.5" and run.settings["scheme"] == "mean_teacher"


def test_invalid_requests_are_refused(small, tmp_path):
    wrong = [
        ("past", {"alpha": 1.5}, "alpha"), ("mean", {"decay": 1.0}, "decay"), ("mean", {"consistency": -1}, "consist"),
        ("mean", {"steps_per_execution": 2}, "steps_per_execution"), ("past", {"weights": "a.keras"}, "weights"),
        ("mean", {"student": "mlq"}, "mlq"), ("past", {"student": 3}, "model of the zoo"),
    ]  # fmt: skip
    for name, options, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            FUNCTIONS[name](**{"student": "mlp(hidden=(4,))", **small, **options}, run=tmp_path / "run")
        assert not (tmp_path / "run").exists(), options
