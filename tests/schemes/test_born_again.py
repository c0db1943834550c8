"""Born-again networks: the generations, and their ensemble."""

import numpy as np
import pytest

import kd_keras as kd
from kd_keras import data, schemes

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]


@pytest.fixture(scope="module")
def born(small, tmp_path_factory):
    run = tmp_path_factory.mktemp("born") / "born"
    return schemes.train_generations(student="mlp(hidden=(8,))", generations=2, seed=3, **small, run=run)


def test_every_generation_learns_from_the_one_before(born, small, tmp_path):
    first, second, third = born.runs
    assert [run.path.name for run in born.runs] == ["0-mlp", "1-mlp", "2-mlp"]
    assert "teacher" not in first.settings and "kd" not in first.history
    assert [run.settings["teacher"] for run in (second, third)] == [str(first.path), str(second.path)]
    assert [run.settings["seed"] for run in born.runs] == ["3", "4", "5"]
    assert second.result["hard_weight"] == 1.0 and second.settings["method"] == "kd(temperature=1, weight=1)"
    alone = kd.distill(
        teacher=first, student="mlp(hidden=(8,))", methods=["kd(temperature=1, weight=1)"], hard_weight=1.0,
        **{**small, "seed": 4}, run=tmp_path / "alone",
    )  # fmt: skip
    for a, b in zip(alone.model().get_weights(), second.model().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_call_trains_nothing_again(born, small):
    written = [(run.path / "model.keras").stat().st_mtime_ns for run in born.runs]
    run = born.student.path.parent
    again = schemes.train_generations(student="mlp(hidden=(8,))", generations=2, seed=3, **small, run=run)
    assert [(run.path / "model.keras").stat().st_mtime_ns for run in again.runs] == written
    assert again.ensemble_accuracy == born.ensemble_accuracy


def test_an_interrupted_scheme_resumes(born, small, tmp_path, interrupt):
    patch, request = interrupt("1-mlp"), {"student": "mlp(hidden=(8,))", "generations": 2, "seed": 3, **small}
    with pytest.raises(KeyboardInterrupt):
        schemes.train_generations(**request, run=tmp_path / "born")
    patch.undo()
    resumed = schemes.train_generations(**request, run=tmp_path / "born")
    for a, b in zip(born.student.model().get_weights(), resumed.student.model().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_ensemble_predicts_the_mean_of_the_probabilities_of_generations_1_to_k(born, small):
    source = data.load("digits", "test[:64]", small["data_dir"])
    examples = list(source.examples.as_numpy_iterator())
    images = np.stack([example["image"] for example in examples]).astype("float32")
    labels = np.array([example["label"] for example in examples])
    logits = [np.array(run.model()(images), "float64") for run in born.runs[1:]]
    probabilities = [np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in logits]
    expected = (probabilities[0] + probabilities[1]) / 2
    combined = np.array(born.teacher().tapped(["logits"])(images)["logits"], "float64")
    np.testing.assert_allclose(np.exp(combined), expected, atol=1e-6)
    assert born.ensemble_accuracy == pytest.approx((expected.argmax(-1) == labels).mean(), abs=1e-6)
    assert born.lines()[-1] == f"Ensemble of generations 1 to 2: accuracy {born.ensemble_accuracy:.4f}"


def test_the_ensemble_teaches_a_student(born, small, tmp_path):
    runs = [
        kd.distill(teacher=form, student="mlp(hidden=(4,))", **small, run=tmp_path / name)
        for name, form in (("teacher", born.teacher()), ("runs", list(born.runs[1:])))
    ]
    for a, b in zip(*(run.model().get_weights() for run in runs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_invalid_requests_are_refused(small, tmp_path):
    wrong = [
        ({"generations": 0}, "generations"), ({"student": "mlq"}, "model of the zoo"), ({"epoch": 1}, "epoch"),
        ({"teacher": "runs/teacher"}, "takes no teacher"), ({"methods": "kd"}, "must be a list"),
    ]  # fmt: skip
    for options, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            schemes.train_generations(**{"student": "mlp(hidden=(8,))", **small, "run": tmp_path / "run", **options})
        assert not (tmp_path / "run").exists()
