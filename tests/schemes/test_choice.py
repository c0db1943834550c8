"""The choice of a student: what fits, the rungs, the front, and resuming."""

import json

import pytest

import kd_keras as kd
from kd_keras import schemes
from kd_keras.schemes.choice import pareto_front, plan_rungs

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]
NAMES = [f"mlp(hidden=({width},))" for width in (4, 8, 12, 500)]
SETTINGS = {"candidates": NAMES, "max_kilobytes": 50, "views": 2, "epochs": 3}


@pytest.fixture(scope="module")
def choice(teacher, small, tmp_path_factory):
    run = tmp_path_factory.mktemp("choose") / "choice"
    return kd.choose(teacher=teacher, **{**small, **SETTINGS}, run=run)


def test_what_is_too_large_is_not_trained(choice):
    directory = choice.student.path.parent.parent
    # 64 * 500 + 500 * 10 weights of four bytes are 148 kB, those of 12 units 3.6 kB.
    assert choice.measured[NAMES[3]]["kilobytes"] > 148 and choice.measured[NAMES[2]]["kilobytes"] < 50
    assert sorted(path.name for path in (directory / "rung0").iterdir()) == ["0-mlp", "1-mlp", "2-mlp"]
    assert set(choice.accuracies) == set(NAMES[:3])
    assert all(row["milliseconds"] > 0 for row in choice.measured.values())


def test_a_third_survives_with_three_times_as_many_epochs(choice):
    directory = choice.student.path.parent.parent
    first = [kd.Run(directory / "rung0" / f"{number}-mlp") for number in range(3)]
    assert [run.result["epochs"] for run in first] == [1, 1, 1] and choice.student.result["epochs"] == 3
    accuracies = [run.result["last"]["val_accuracy"] for run in first]
    best = accuracies.index(max(accuracies))
    assert choice.student.path == directory / "rung1" / f"{best}-mlp" and len(choice.runs) == 1
    assert choice.student.settings["recording"] == str(directory / "recording")
    assert choice.accuracies[NAMES[best]] == choice.student.result["last"]["val_accuracy"]


def test_the_same_call_measures_and_trains_nothing_again(choice, teacher, small, monkeypatch):
    directory = choice.student.path.parent.parent
    monkeypatch.setattr("kd_keras.schemes.choice.litert", None)
    written = (choice.student.path / "model.keras").stat().st_mtime_ns
    again = kd.choose(teacher=teacher, **{**small, **SETTINGS}, run=directory)
    assert again.lines() == choice.lines() and (again.student.path / "model.keras").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="has measurements of"):
        kd.choose(teacher=teacher, **{**small, **SETTINGS, "form": "litert_float16"}, run=directory)


def test_an_interrupted_choice_resumes(choice, teacher, small, tmp_path, interrupt):
    patch = interrupt(choice.student.path.name)
    with pytest.raises(KeyboardInterrupt):
        kd.choose(teacher=teacher, **{**small, **SETTINGS}, run=tmp_path / "choice")
    patch.undo()
    measured = json.loads((tmp_path / "choice" / "candidates.json").read_text())["candidates"]
    resumed = kd.choose(teacher=teacher, **{**small, **SETTINGS}, run=tmp_path / "choice")
    assert resumed.accuracies == choice.accuracies and resumed.measured == measured


def test_the_lines_mark_the_front(choice):
    lines = choice.lines()
    assert len(lines) == 5 and "does not fit" in lines[3] and lines[4].startswith("Chosen: ")
    assert any(line.startswith("* ") for line in lines)


def test_the_front_and_the_rungs():
    points = {"a": (3, -3), "b": (2, -1), "c": (2, -2), "d": (1, -1), "e": (3, -3)}
    assert pareto_front(points) == ["a", "b", "e"]
    assert plan_rungs(1, 10) == [(1, 10)] and plan_rungs(2, 10) == [(2, 10)] and plan_rungs(3, 10) == [(3, 3), (1, 10)]
    assert plan_rungs(27, 27) == [(27, 1), (9, 3), (3, 9), (1, 27)]


@pytest.mark.parametrize("form", ["litert_float16", "litert_int8"])
def test_other_forms_are_smaller(form, choice, teacher, small, tmp_path):
    settings = {**SETTINGS, "candidates": NAMES[3:], "max_kilobytes": 100, "epochs": 1}
    made = kd.choose(teacher=teacher, **{**small, **settings}, form=form, run=tmp_path / "run")
    assert made.measured[NAMES[3]]["kilobytes"] < 0.6 * choice.measured[NAMES[3]]["kilobytes"]


def test_invalid_requests_are_refused(teacher, small, tmp_path):
    wrong = [
        ({"candidates": []}, "one or more"), ({"candidates": ["mlq"]}, "models of the zoo"), ({"form": "onnx"}, "form"),
        ({"candidates": NAMES[:1] * 2}, "different"), ({"max_kilobytes": -1}, "max_kilobytes"), ({"views": 0}, "views"),
        ({"overwrite": True}, "overwritten"), ({"weights": "a.keras"}, "takes no weights"), ({"epoch": 2}, "epoch"),
    ]  # fmt: skip
    for options, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            schemes.choose(**{"teacher": teacher, **small, **SETTINGS, **options}, run=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="within the limits"):
        schemes.choose(**{"teacher": teacher, **small, **SETTINGS, "max_kilobytes": 1}, run=tmp_path / "run")
