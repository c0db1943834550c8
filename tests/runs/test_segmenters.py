"""Segmentation as a task of runs: its labels decide it, mean IoU is its metric, pages and exports are its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras import data
from kd_keras.runs.images import load_images
from kd_keras.runs.recipe import Recipe
from kd_keras.tasks import find_task
from kd_keras.tasks.segmentation.export import load_class_maps
from tests.support.shapes import colored_rectangles

SEGMENTER = "segmenter/resnet8(width=8)"
SHARED = Path(__file__).parents[3] / "shared" / "data"
NAMES = ("ground", "red", "green", "blue")


def images_and_masks(count, size=32):
    """Images with rectangles in the color of their class on dark ground, and their masks; the first row is ignored."""
    images, label = colored_rectangles(count, size=size)
    masks = np.zeros((count, size, size), "int32")
    for image, (boxes, classes) in enumerate(zip(label["boxes"], label["classes"], strict=True)):
        for (top, left, bottom, right), number in zip((boxes * size).round().astype(int), classes, strict=True):
            masks[image, top:bottom, left:right] = number + 1
    masks[:, 0] = -1
    return images.clip(0, 255).astype("uint8"), masks


@pytest.fixture(scope="module")
def shapes():
    images, masks = images_and_masks(8)
    rows = {"image": images, "index": np.arange(8), "label": masks}
    return data.Source(tf.data.Dataset.from_tensor_slices(rows), "shapes", 8, 4, NAMES, image_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images and masks, whose ignored pixels are 255."""
    place = tmp_path_factory.mktemp("folder")
    images, masks = images_and_masks(6)
    for split, chosen in (("train", slice(0, 4)), ("test", slice(4, 6))):
        for kind, arrays in (("images", images), ("masks", np.where(masks < 0, 255, masks).astype("uint8"))):
            (place / split / kind).mkdir(parents=True)
            for number, array in enumerate(arrays[chosen]):
                Image.fromarray(array).save(place / split / kind / f"{number}.png")
    return place


def test_a_classifier_is_rejected_for_images_with_masks(shapes, tmp_path):
    with pytest.raises(ValueError, match="a class for each pixel, but received resnet8.* Write segmenter/resnet8"):
        kd.train(model="resnet8", data=shapes, epochs=1, run=tmp_path / "run")
    with pytest.raises(ValueError, match="logits .*32, 32, 4.* but received .*32, 32, 7.* the classes for which"):
        model = kd.models.build("segmenter/resnet8", (32, 32, 3), 7, width=8)
        kd.train(model=model, data=shapes, epochs=1, run=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "classification"}, "one class for each image in 'shapes' .* received labels of the kind 'masks'"),
        ({"label_smoothing": 0.1}, "one class for each pixel, but received label_smoothing=0.1"),
        ({"without_classes": (1,)}, "whose labels are masks"),
        ({"class_names": ("a", "b")}, "the classes of 'shapes', .* but received class_names=a,b"),
        ({"rand_augment": (2, 9)}, "which the masks of shapes can follow"),
        ({"scale": (2.0, 0.5)}, "scale"),
        ({"scale": "wide"}, "scale must be two numbers"),
    ],
)
def test_options_that_masks_do_not_have_are_rejected(shapes, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kd.train(model=SEGMENTER, data=shapes, epochs=1, run=tmp_path / "run", **options)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_folder_of_masks_is_recognized_and_its_ignored_values_are_left_out(folder):
    images = load_images(Recipe(data=str(folder), class_names=NAMES, ignored=(255,)))
    assert images.task.name == "segmentation" and images.train.class_names == NAMES
    assert [int(row["label"][0, 0]) for row in images.test.examples] == [-1, -1]
    with pytest.raises(ValueError, match="names of the classes"):
        load_images(Recipe(data=str(folder)))
    (folder / "classes.txt").write_text("\n".join(NAMES))  # which the folder names now itself
    assert load_images(Recipe(data=str(folder), ignored=(255,))).train.class_names == NAMES
    with pytest.raises(ValueError, match="the classes .'a', 'b'. in .* but received .'ground'"):
        load_images(Recipe(data=str(folder), class_names=("a", "b"), ignored=(255,)))
    (folder / "classes.txt").unlink()


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="camvid is not prepared beside this repository")
def test_a_dataset_with_a_mask_is_recognized():
    assert find_task(None, "camvid", SHARED).name == "segmentation"
    with pytest.raises(ValueError, match="names of the classes of camvid.* Pass class_names"):
        load_images(Recipe(data="camvid", data_dir=str(SHARED)))


def test_a_student_whose_learned_ranges_cannot_be_exported_is_refused(runs, shapes, tmp_path):
    with pytest.raises(ValueError, match="quantize='int8' needs images for classification, .* for segmentation"):
        kd.distill(student=runs[0], teacher=runs[0], data=shapes, quantize="int8", epochs=1, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_tasks_refuse_ignored_values():
    with pytest.raises(ValueError, match="which has no masks, but received ignored=255"):
        load_images(Recipe(data="digits", ignored=(255,)))


def test_ignored_values_of_images_that_are_a_python_object_are_refused(shapes, folder, runs, tmp_path):
    message = "masks are read with ignored=.*255.*, but received images as a Python object. Leave it out"
    with pytest.raises(ValueError, match=message):
        kd.train(model=SEGMENTER, data=shapes, ignored=(255,), epochs=1, run=tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        kd.evaluate(runs[0], data=shapes, ignored=(255,))
    assert not (tmp_path / "run").exists()
    mixed = Recipe(data=shapes, test_data=str(folder), ignored=(255,), class_names=NAMES)
    assert [int(row["label"][0, 0]) for row in load_images(mixed).test.examples] == [-1, -1]


@pytest.fixture(scope="module")
def runs(shapes, folder, tmp_path_factory):
    """A teacher of a folder, and a student of it and of its recorded outputs on a source."""
    place = tmp_path_factory.mktemp("runs")
    options = {"batch_size": 4, "optimizer": "adam", "learning_rate": 0.01}
    named = {"data": str(folder), "class_names": NAMES, "ignored": (255,), "scale": (0.5, 2.0), "flip": True}
    teacher = kd.train(model=SEGMENTER, run=place / "teacher", epochs=3, test_every=2, **named, **options)
    methods = ["kd", "cwd"]
    recording = kd.record(
        teacher=teacher, output=place / "recording", methods=methods, views=1, data=shapes, batch_size=4
    )
    options |= {"data": shapes, "test_data": shapes, "teacher": teacher, "recording": recording.directory}
    student = kd.distill(student=SEGMENTER, methods=methods, run=place / "student", epochs=1, **options)
    return teacher, student


def mean_iou(predicted, masks, classes=4):
    valid = masks >= 0
    hits = [((predicted == k) & (masks == k) & valid).sum() for k in range(classes)]
    either = [(((predicted == k) | (masks == k)) & valid).sum() for k in range(classes)]
    return np.mean([hit / total for hit, total in zip(hits, either, strict=True) if total])


def test_the_mean_iou_decides_which_epoch_is_the_best(runs, folder):
    result, history = runs[0].result, runs[0].history
    assert (result["task"], result["metric"]) == ("segmentation", "miou")
    assert result["best_val_miou"] == np.nanmax(history["val_miou"]) and np.isnan(history["val_miou"][0])
    images, masks = images_and_masks(6)
    predicted = runs[0].model().predict(images[4:].astype("float32"), verbose=0).argmax(-1)
    assert result["last"]["val_miou"] == pytest.approx(mean_iou(predicted, masks[4:]), abs=1e-6)
    assert runs[0].settings["ignored"] == "255" and runs[0].settings["scale"] == "0.5,2.0"
    assert Recipe.from_settings(runs[0].settings).class_names == NAMES


def test_a_student_follows_recorded_logits(runs, shapes):
    teacher, student = runs
    images, masks = images_and_masks(8)
    predicted = teacher.model().predict(images.astype("float32"), verbose=0).argmax(-1)
    assert student.result["teacher_miou"] == pytest.approx(mean_iou(predicted, masks), abs=1e-6)
    assert {"kd", "cwd", "hard", "val_pixel_accuracy", "val_loss"} <= student.history.keys()


def test_segmentation_networks_are_evaluated_on_their_masks(runs, shapes, tmp_path):
    teacher, student = runs
    page = tmp_path / "page.html"
    limits = {"max_miou_drop": 1.0, "min_miou": 1.0}
    result = kd.evaluate([student], teacher=teacher, data=shapes, requirements=limits, report=page)
    text = page.read_text()
    assert "Masks on images" in text and "Reliability of pixels" in text and "Mean IoU drop" in text
    findings = result.findings[str(student.path)]
    assert findings["miou"] == pytest.approx(student.result["last"]["val_miou"], abs=1e-6)
    teachers = result.findings[str(teacher.path)]["miou"]
    assert findings["difference"] == pytest.approx(findings["miou"] - teachers, abs=1e-9)
    assert findings["parameters"] == student.model().count_params() and findings["milliseconds"] > 0
    assert [requirement.passed for requirement in result.verdict.requirements] == [True, False]
    assert "| boundary_f |" in result.table and "mean IoU " in str(result)
    with pytest.raises(ValueError, match="no questions that take more time, for segmentation, but received similarity"):
        kd.evaluate(teacher, data=shapes, questions=["similarity"])
    with pytest.raises(ValueError, match="masks in 'bare' to evaluate segmentation"):
        bare = data.Source(shapes.examples.map(lambda row: {k: row[k] for k in ("image", "index")}), "bare", 8)
        kd.evaluate(teacher, data=bare, task="segmentation")


def test_the_data_of_a_run_are_read_again_as_it_read_them(runs, folder):
    result = kd.evaluate(runs[0])
    (findings,) = result.findings.values()
    assert findings["miou"] == pytest.approx(runs[0].result["last"]["val_miou"], abs=1e-6)
    assert f"2 test images of {folder}" in result.data


def test_runs_are_compared_by_their_mean_iou(runs):
    (row,) = kd.compare([runs[0]]).rows
    assert row["metric"] == "miou" and row["last"] == 100 * runs[0].result["last"]["val_miou"]


def test_a_network_is_exported_with_its_class_maps(runs, tmp_path):
    (exported,) = kd.export(runs[0], ["litert"], output=tmp_path)
    assert exported.path == tmp_path / "model.tflite" and exported.agreement >= 0.999
    table = json.loads((tmp_path / "export.json").read_text())
    assert table["source_miou"] == pytest.approx(runs[0].result["last"]["val_miou"], abs=1e-6)
    images, masks = images_and_masks(6)
    maps = np.concatenate([load_class_maps(exported.path)(image[None]) for image in images[4:]])
    assert mean_iou(maps, masks[4:]) == pytest.approx(table["source_miou"], abs=2e-3)
    with pytest.raises(ValueError, match="'pixels' is not a tolerance of segmentation"):
        kd.export(runs[0], ["litert"], output=tmp_path, tolerance={"pixels": 1.0})
