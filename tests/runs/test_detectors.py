"""The task of a run is that of its labels: a network of another task is rejected when it enters."""

import json

import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras import data, models
from kd_keras.evaluation import average_precision
from tests.support.detectors import varied_detector
from tests.support.runs import interruption
from tests.support.shapes import colored_rectangles

DETECTOR = "detector/resnet8(pyramid=(2,), width=8, depth=1, anchor_scale=2.5)"


@pytest.mark.parametrize(
    "model",
    [
        "detector/resnet8(pyramid=(0, 1), width=8)",
        lambda: models.build("detector/resnet8", (8, 8, 1), 10, pyramid=(0, 1), width=8),
    ],
    ids=["name", "model"],
)
def test_a_detector_is_rejected_for_images_with_one_class_each(model, tmp_path):
    with pytest.raises(ValueError, match="a classifier, .* but .* box_deltas, class_logits"):
        kd.train(model=model if isinstance(model, str) else model(), data="digits", epochs=1, run=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.fixture(scope="module")
def shapes():
    images, label = colored_rectangles(8, size=32)
    rows = {"image": images.clip(0, 255).astype("uint8"), "index": np.arange(8), "label": label}
    return data.Source(tf.data.Dataset.from_tensor_slices(rows), "shapes", 8, 3, image_shape=(32, 32, 3))


def test_a_classifier_is_rejected_for_images_with_boxes(shapes, tmp_path):
    with pytest.raises(ValueError, match="a detector .* but received resnet8.* Write detector/resnet8"):
        kd.train(model="resnet8", data=shapes, epochs=1, run=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "classification"}, "one class for each image in 'shapes' .* but received labels of the kind 'boxes'"),
        ({"task": "detect"}, "Did you mean detection"),
        ({"label_smoothing": 0.1}, "one class each, but received label_smoothing=0.1"),
        ({"without_classes": (1,)}, "whose labels are boxes"),
    ],
)
def test_options_of_another_task_are_rejected(shapes, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kd.train(model=DETECTOR, data=shapes, epochs=1, run=tmp_path / "run", **options)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory):
    """A teacher, and a student of it and of its recorded outputs."""
    place = tmp_path_factory.mktemp("runs")
    options = {"data": shapes, "test_data": shapes, "batch_size": 4, "optimizer": "adam"}
    teacher = kd.train(model=DETECTOR, run=place / "teacher", epochs=2, test_every=2, **options)
    methods = ["bckd", "pkd(student_tap='pyramid_p*', teacher_tap='pyramid_p*')"]
    view = {"data": shapes, "batch_size": 4, "flip": True}
    recording = kd.record(teacher=teacher, output=place / "recording", methods=methods, views=1, **view)
    options |= {"teacher": teacher, "recording": recording.directory, "flip": True}
    student = kd.distill(student=DETECTOR, methods=methods, run=place / "student", epochs=1, **options)
    return teacher, student


def test_the_average_precision_decides_which_epoch_is_the_best(runs, shapes):
    result, history = runs[0].result, runs[0].history
    assert (result["task"], result["metric"]) == ("detection", "ap")
    assert result["best_val_ap"] == np.nanmax(history["val_ap"]) and np.isnan(history["val_ap"][0])
    labels = {key: np.stack([row["label"][key] for row in shapes.examples]) for key in ("boxes", "classes")}
    images = np.stack([row["image"] for row in shapes.examples]).astype("float32")
    detections = runs[0].model().detect(images)
    expected = dict(average_precision(labels, detections, (32, 32), 3))["ap"]
    assert result["last"]["val_ap"] == pytest.approx(expected, abs=1e-6)


def test_a_student_follows_recorded_class_logits_boxes_and_maps_of_the_pyramid(runs):
    teacher, student = runs
    assert student.settings["recording"].endswith("recording")
    assert student.result["teacher_ap"] == pytest.approx(teacher.result["last"]["val_ap"], abs=1e-6)
    assert {"bckd", "pkd", "hard", "val_ap50"} <= student.history.keys()


@pytest.mark.slow
def test_an_interrupted_distillation_resumes_and_equals_a_whole_one(runs, shapes, tmp_path, monkeypatch):
    options = {"teacher": runs[0], "student": DETECTOR, "methods": ["bckd"], "data": shapes, "test_data": shapes}
    options |= {"batch_size": 4, "epochs": 3, "optimizer": "adam", "flip": True, "mosaic": 0.5}
    whole = kd.distill(**options, run=tmp_path / "whole")
    with interruption(monkeypatch, epoch=1):
        kd.distill(**options, run=tmp_path / "stopped")
    resumed = kd.distill(**options, run=tmp_path / "stopped")
    assert resumed.history["loss"] == whole.history["loss"] and resumed.history["val_ap"] == whole.history["val_ap"]
    for after, expected in zip(resumed.model().get_weights(), whole.model().get_weights(), strict=True):
        np.testing.assert_array_equal(after, expected)


def test_detectors_are_evaluated_on_their_boxes(runs, shapes, tmp_path):
    teacher, student = runs
    page = tmp_path / "page.html"
    result = kd.evaluate([student], teacher=teacher, data=shapes, requirements={"max_ap_drop": 1.0}, report=page)
    text = page.read_text()
    assert "Boxes on images" in text and f"May {student.path} replace {teacher.path}" in text
    findings = result.findings[str(student.path)]
    assert findings["ap"] == pytest.approx(student.result["last"]["val_ap"], abs=1e-6)
    assert findings["parameters"] == student.model().count_params() and findings["milliseconds"] > 0
    assert result.verdict.passed and "| ap50 |" in result.table and "AP " in str(result)
    with pytest.raises(ValueError, match="no questions that take more time, for detection, but received similarity"):
        kd.evaluate(teacher, data=shapes, questions=["similarity"])


def test_a_teacher_of_other_classes_teaches_maps_and_is_not_measured(shapes, tmp_path):
    teacher = kd.models.build(DETECTOR.partition("(")[0], (32, 32, 3), 5, pyramid=(2,), width=8, depth=1)
    bias = teacher.get_layer("class_predictions").bias
    bias.assign([5.0 if number % 5 == 4 else -5.0 for number in range(bias.shape[0])])  # detects class 4 everywhere
    options = {"data": shapes, "test_data": shapes, "batch_size": 4, "epochs": 1}
    pkd = ["pkd(student_tap='pyramid_p*', teacher_tap='pyramid_p*')"]
    student = kd.distill(teacher=teacher, student=DETECTOR, methods=pkd, run=tmp_path / "student", **options)
    assert "val_ap" in student.history and "teacher_ap" not in student.result
    with pytest.raises(ValueError, match="a detector of the 3 classes of shapes, but received .* with 5"):
        kd.evaluate([student], teacher=teacher, data=shapes)


def test_runs_of_detectors_are_compared_by_their_average_precision(runs):
    (row,) = kd.compare([runs[0]]).rows
    assert row["metric"] == "ap" and row["last"] == 100 * runs[0].result["last"]["val_ap"]
    assert "| recipe | seeds | ap, % |" in kd.compare(list(runs)).markdown()


def test_a_detector_is_exported_with_its_detections(runs, shapes, tmp_path):
    tolerance = {"score": 1.0, "pixels": 1e9, "matched": 0.0}  # hardly trained, all scores are nearly equal
    (exported,) = kd.export(runs[0], ["litert"], output=tmp_path, data=shapes, tolerance=tolerance)
    assert exported.path == tmp_path / "model.tflite" and exported.format == "litert"
    table = json.loads((tmp_path / "export.json").read_text())
    assert table["source_ap"] == pytest.approx(runs[0].result["last"]["val_ap"], abs=1e-6)
    assert list(table["formats"]) == ["litert"] and not table["rejected"]
    message = "'agreement' is not a tolerance of detection: choose one of: ap_drop, matched"
    with pytest.raises(ValueError, match=message):
        kd.export(runs[0], ["litert"], output=tmp_path, data=shapes, tolerance={"agreement": 0.9})


def test_an_export_agrees_with_the_network_within_the_default_tolerance(shapes, tmp_path):
    # Its scores differ, so that rounding reorders no boxes, and none of its boxes is empty.
    network = varied_detector("resnet8", (32, 32, 3), 3, head="gfl", pyramid=(2,), width=8, depth=1)
    (exported,) = kd.export(network, ["litert"], output=tmp_path, data=shapes)
    assert exported.matched >= 0.99 and exported.score_difference <= 1e-3 and exported.box_difference <= 0.1
    with pytest.raises(ValueError, match="litert export is rejected.*matched at least 1.1"):
        kd.export(network, ["litert"], output=tmp_path, data=shapes, tolerance={"matched": 1.1})
