"""The choice of a student: what fits, the rungs, the baseline, the files, and resuming."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras import schemes
from kd_keras.schemes.halving import plan_rungs
from kd_keras.schemes.sizes import read_latencies

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]
NAMES = [f"mlp(hidden=({width},))" for width in (4, 8, 12, 500)]
SETTINGS = {"candidates": NAMES, "max_kilobytes": 50, "views": 2, "epochs": 3}


@pytest.fixture(scope="module")
def choice(teacher, small, tmp_path_factory):
    run = tmp_path_factory.mktemp("choose") / "choice"
    return kd.choose(teacher=teacher, **{**small, **SETTINGS}, run=run)


@pytest.fixture(scope="module")
def directory(choice):
    return choice.student.path.parent.parent


@pytest.fixture(scope="module")
def points(choice):
    """The points of the candidates by name, without teacher and baseline."""
    return {point.name: point for point in choice.points if point.role in ("candidate", "chosen")}


def test_what_is_too_large_is_not_trained(directory, points):
    # 64 * 500 + 500 * 10 weights of four bytes are 148 kB, those of 12 units 3.6 kB.
    assert points[NAMES[3]].kilobytes > 148 and points[NAMES[2]].kilobytes < 50
    assert sorted(path.name for path in (directory / "rung0").iterdir()) == ["0-mlp", "1-mlp", "2-mlp"]
    assert points[NAMES[3]].accuracy is None and all(points[name].accuracy for name in NAMES[:3])
    assert all(point.milliseconds > 0 for point in points.values())
    for name in NAMES:
        assert (directory / "exports" / f"{name}.tflite").stat().st_size == 1000 * points[name].kilobytes


def test_a_third_survives_with_three_times_as_many_epochs(choice, directory, points):
    first = [kd.Run(directory / "rung0" / f"{number}-mlp") for number in range(3)]
    assert [run.result["epochs"] for run in first] == [1, 1, 1] and choice.student.result["epochs"] == 3
    accuracies = [run.result["last"]["val_accuracy"] for run in first]
    best = accuracies.index(max(accuracies))
    assert choice.student.path == directory / "rung1" / f"{best}-mlp" and len(choice.runs) == 1
    assert choice.student.settings["recording"] == str(directory / "recording")
    assert points[NAMES[best]].accuracy == choice.student.result["last"]["val_accuracy"]
    assert points[NAMES[best]].role == "chosen" and points[NAMES[best]].epochs == 3


def test_the_baseline_trains_as_long_without_a_teacher_and_is_in_the_budget(choice, directory):
    settings = choice.baseline.settings
    assert choice.baseline.path.parent == directory / "baseline" and choice.baseline.result["epochs"] == 3
    assert choice.baseline.path.name == choice.student.path.name and settings["views"] == "2"
    assert settings["model"] == choice.student.settings["student"] and "method" not in settings
    (point,) = (point for point in choice.points if point.role == "baseline")
    assert point.accuracy == choice.baseline.result["last"]["val_accuracy"]
    assert choice.budget == 3 * 1 + 1 * 3 + 3


def test_the_teacher_is_measured_on_the_same_images(choice, teacher, small, tmp_path):
    (point,) = (point for point in choice.points if point.role == "teacher")
    assert point.accuracy == pytest.approx(teacher.result["last"]["val_accuracy"])
    assert point.kilobytes > 4 * (64 * 16 + 16 * 10) / 1000 and point.milliseconds > 0
    # Without test_split they are all test images, and not those of the teacher's run.
    settings = {key: value for key, value in {**small, **SETTINGS}.items() if key != "test_split"}
    whole = kd.choose(teacher=teacher, **{**settings, "candidates": NAMES[:1], "epochs": 1}, run=tmp_path / "whole")
    (point,) = (point for point in whole.points if point.role == "teacher")
    findings = kd.evaluate((), teacher=teacher, data="digits", data_dir=small["data_dir"], test_split="test").findings
    assert point.accuracy == pytest.approx(next(iter(findings.values()))["accuracy"])


def test_a_teacher_of_other_pixels_is_not_in_the_figure(teacher, small, tmp_path):
    settings = {**small, **SETTINGS, "candidates": NAMES[:1], "epochs": 1, "teacher_range": (0, 1)}
    chosen = kd.choose(teacher=teacher, **settings, run=tmp_path / "choice")
    assert {point.role for point in chosen.points} == {"chosen", "baseline"}


def test_other_limits_may_choose_another_network_in_the_same_directory(teacher, small, tmp_path):
    settings = {**small, **SETTINGS, "candidates": [NAMES[0], NAMES[2]], "epochs": 1}
    first = kd.choose(teacher=teacher, **settings, run=tmp_path / "choice")
    limit = min(point.kilobytes for point in first.points if point.role == "candidate") + 0.01
    for max_kilobytes in (limit, 50):
        again = kd.choose(teacher=teacher, **{**settings, "max_kilobytes": max_kilobytes}, run=tmp_path / "choice")
        assert again.baseline.settings["model"] == again.student.settings["student"]


def test_the_files_show_what_the_choice_says(choice, directory):
    assert (directory / "choice.md").read_text().splitlines() == choice.lines()[:-2]
    with open(directory / "choice.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [point.name for point in choice.points]
    assert (directory / "choice.png").read_bytes()[1:4] == b"PNG"


def test_the_same_call_measures_and_trains_nothing_again(choice, directory, teacher, small, monkeypatch):
    monkeypatch.setattr("kd_keras.schemes.sizes.litert", None)
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
    assert [(point.name, point.accuracy) for point in resumed.points] == [
        (point.name, point.accuracy) for point in choice.points
    ]
    assert {point.name: point.milliseconds for point in resumed.points if point.name in NAMES[1:]} == {
        name: measured[name]["milliseconds"] for name in NAMES[1:]
    }


def test_the_rungs():
    assert plan_rungs(1, 10) == [(1, 10)] and plan_rungs(2, 10) == [(2, 10)] and plan_rungs(3, 10) == [(3, 3), (1, 10)]
    assert plan_rungs(27, 27) == [(27, 1), (9, 3), (3, 9), (1, 27)]


def test_every_candidate_is_trained_with_every_recipe(teacher, small, tmp_path):
    recipes = {"soft": {"methods": ["kd(temperature=4)"], "hard_weight": 0.1}, "dkd": {"methods": ["dkd"]}}
    settings = {**small, **SETTINGS, "candidates": NAMES[:2], "epochs": 2}
    chosen = schemes.choose(teacher=teacher, recipes=recipes, **settings, run=tmp_path / "run")
    names = {point.name for point in chosen.points if point.role in ("candidate", "chosen")}
    assert names == {f"{name}, {recipe}" for name in NAMES[:2] for recipe in recipes}
    assert chosen.budget == 4 * 1 + 2 * 2 + 2 and len(chosen.runs) == 2
    soft = kd.Run(tmp_path / "run" / "rung0" / "0-mlp-soft").settings
    assert (soft["method"], soft["hard_weight"]) == ("kd(temperature=4)", "0.1")
    assert kd.Run(tmp_path / "run" / "rung0" / "1-mlp-dkd").settings["method"] == "dkd"


def test_latencies_of_another_device_decide(teacher, small, tmp_path):
    times = tmp_path / "phone.csv"
    lines = [f'"{name}",{n + 1}.5' for n, name in enumerate(NAMES)]
    for teachers, expected in (([], None), (["teacher,9.5"], 9.5)):
        times.write_text("\n".join(["candidate,milliseconds", *lines, *teachers]))
        settings = {**small, **SETTINGS, "max_milliseconds": 1.6, "epochs": 1, "latencies": times}
        chosen = schemes.choose(teacher=teacher, **settings, run=tmp_path / "run")
        assert chosen.student.settings["student"] == NAMES[0]
        by_name = {point.name: point for point in chosen.points if point.role != "baseline"}
        assert [by_name[name].milliseconds for name in NAMES] == [1.5, 2.5, 3.5, 4.5]
        assert by_name["teacher"].milliseconds == expected and by_name["teacher"].kilobytes > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"), ("model,ms\na,1\n", "must have the columns"),
        ("candidate,milliseconds\na,1\n", "it has none for b"), ("candidate,milliseconds\na,0\nb,1\n", "times above 0"),
        ("candidate,milliseconds\na\nb,1\n", "times above 0"),
    ],
)  # fmt: skip
def test_a_file_of_latencies_is_checked(text, message, tmp_path):
    (tmp_path / "times.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_latencies(tmp_path / "times.csv", ["a", "b"])


@pytest.mark.parametrize("form", ["litert_float16", "litert_int8"])
def test_other_forms_are_smaller(form, points, small, tmp_path):
    sizes = schemes.measure_candidates(NAMES[3:], form=form, **small, run=tmp_path / "run")
    assert sizes[NAMES[3]].kilobytes < 0.6 * points[NAMES[3]].kilobytes


def test_a_lower_resolution_has_the_same_size_and_the_default_candidates_are_small(small, tmp_path):
    options = {**small, "image_size": (16, 16)}
    sizes = schemes.measure_candidates(["resnet8", "resnet8(resolution=12)"], **options, run=tmp_path)
    assert sizes["resnet8(resolution=12)"].kilobytes == pytest.approx(sizes["resnet8"].kilobytes, rel=0.02)
    for name in schemes.CANDIDATES:
        model, _, width = name.partition("(width=")
        size = {"width": float(width[:-1])} if width else {}
        assert kd.models.build(model, (16, 16, 1), 10, **size).count_params() < 3_000_000


def test_invalid_requests_are_refused(teacher, small, tmp_path):
    recipes = {"kd": {"methods": ["kd"], "epochs": 2}}
    named = {"a/b": {"methods": ["kd"]}}
    wrong = [
        ({"candidates": []}, "one or more"), ({"candidates": ["mlq"]}, "models of the zoo"), ({"form": "onnx"}, "form"),
        ({"candidates": NAMES[:1] * 2}, "different"), ({"max_kilobytes": -1}, "max_kilobytes"), ({"views": 0}, "views"),
        ({"overwrite": True}, "overwritten"), ({"weights": "a.keras"}, "takes no weights"), ({"epoch": 2}, "epoch"),
        ({"teacher": None}, "a teacher to"), ({"recipes": recipes}, "Each recipe"), ({"recipes": {}}, "none"),
        ({"recipes": {"a": {"methods": ["kd"]}}, "hard_weight": 0.1}, "recipes= or methods="),
        ({"recipes": {"kd": ["kd"]}}, "Each recipe"), ({"recipes": named}, "The name of a recipe"),
        ({"methods": ["kdd"]}, "kdd"), ({"optimizer": "dot"}, "'dot'"), ({"strategy": "multiworker"}, "one process"),
        ({"first_layer_rate": 0.5}, "trained weights"), ({"candidates": ["mlp", "mlp()"]}, "different"),
        ({"candidates": ["detector/resnet8"]}, "a classifier"),
    ]  # fmt: skip
    for options, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            schemes.choose(**{"teacher": teacher, **small, **SETTINGS, **options}, run=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="within the limits"):
        schemes.choose(**{"teacher": teacher, **small, **SETTINGS, "max_kilobytes": 1}, run=tmp_path / "run")


def test_what_only_the_first_rung_cannot_do_is_refused_before_any_training(teacher, small, tmp_path):
    settings = {**small, **SETTINGS, "epochs": 6, "warmup_epochs": 3}  # the first rung has two epochs
    with pytest.raises(ValueError, match="warm-up shorter than the training of epochs=2"):
        schemes.choose(teacher=teacher, **settings, run=tmp_path / "run")
    assert not (tmp_path / "run" / "recording").exists()


def test_decay_epochs_belong_to_the_epochs_of_the_choice(teacher, small, tmp_path):
    settings = {**small, **SETTINGS, "candidates": NAMES[:1], "epochs": 31, "schedule": "steps", "decay_epochs": (30,)}
    settings |= {"train_split": "train[:16]", "test_split": "test[:16]", "test_every": 31}
    assert schemes.choose(teacher=teacher, **settings, run=tmp_path / "run").student.result["epochs"] == 31


def test_measurements_of_another_number_of_classes_are_refused(small, tmp_path):
    schemes.measure_candidates(NAMES[:1], **small, run=tmp_path)
    images = tf.data.Dataset.from_tensor_slices((np.zeros((6, 8, 8, 1), "uint8"), [0, 1, 2] * 2))
    with pytest.raises(ValueError, match="'classes': 10.*'classes': 3"):
        schemes.measure_candidates(NAMES[:1], data=images, test_data=images, batch_size=2, run=tmp_path)
