"""kd_keras.predict with detectors: boxes in pixels of the original images, from networks and exported files."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras.tasks.detection.drawing import COLORS
from kd_keras.tasks.detection.export import export_detector
from tests.support.detectors import varied_detector
from tests.support.programs import program
from tests.support.runs import saved_run

NAMES = ["red", "green", "blue"]
SIZES = {"a/1.png": (32, 32), "a/2.png": (20, 50), "3.png": (96, 64), "turned.jpg": (30, 60)}  # (height, width)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of several sizes, one of which is stored on its side."""
    place = tmp_path_factory.mktemp("images")
    (place / "a").mkdir()
    random = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        noise = Image.fromarray(random.integers(0, 256, (32, 32, 3)).astype("uint8"))
        picture = noise.resize((width, height), Image.Resampling.NEAREST)
        if name == "turned.jpg":  # stored on its side, and turned upright by a quarter to the right
            exif = Image.Exif()
            exif[0x0112] = 6
            picture.transpose(Image.Transpose.ROTATE_90).save(place / name, exif=exif, quality=95)
        else:
            picture.save(place / name)
    return place


@pytest.fixture(scope="module")
def network():
    return varied_detector("resnet8", (32, 32, 3), 3, pyramid=(2,), width=8, depth=1, anchor_scale=2.5)


@pytest.fixture(scope="module")
def run(network, tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("runs") / "student", network, "detection", NAMES)


@pytest.fixture(scope="module")
def predicted(run, folder):
    return kd.predict(run, folder).predictions


def upright(path):
    """The pixels of an image file as a viewer shows them."""
    picture = Image.open(path)
    return np.asarray(picture.transpose(Image.Transpose.ROTATE_270) if path.suffix == ".jpg" else picture)


def expected_boxes(network, image, lowest):
    """The network's own decoded boxes, mapped to the pixels of the image by hand."""
    pixels = np.round(tf.image.resize(image, (32, 32), antialias=True).numpy())
    boxes, scores, classes, count = (np.asarray(value)[0] for value in network.detect(pixels[None]))
    height, width = image.shape[:2]
    rows = []
    for (x0, y0, x1, y1), score, number in list(zip(boxes, scores, classes, strict=True))[:count]:
        if score >= lowest:
            place = (y0 * height / 32, x0 * width / 32, y1 * height / 32, x1 * width / 32)
            rows.append((NAMES[number], score, *place))
    return rows


def test_boxes_are_those_of_the_network_in_the_original_size(run, network, folder, tmp_path):
    results = kd.predict(run, folder, output=tmp_path / "p.json", score=0.4, batch_size=3)
    assert {image.file: image.size for image in results.predictions} == SIZES
    assert sum(len(image.boxes) for image in results.predictions) > 20
    for image, record in zip(results.predictions, json.loads((tmp_path / "p.json").read_text()), strict=True):
        expected = expected_boxes(network, upright(folder / image.file), 0.4)
        assert [box.class_name for box in image.boxes] == [row[0] for row in expected]
        np.testing.assert_allclose([box[2:] for box in image.boxes], [row[1:] for row in expected], atol=1e-2)
        assert (record["file"], record["height"], record["width"]) == (image.file, *image.size)
        assert [list(box.values()) for box in record["boxes"]] == [[box[0], *box[2:]] for box in image.boxes]
        assert all(list(box) == ["class", "score", "ymin", "xmin", "ymax", "xmax"] for box in record["boxes"])


def test_an_image_without_boxes_has_no_row_in_a_table_and_an_empty_list_in_json(run, predicted, folder, tmp_path):
    lowest = max(box.score for image in predicted for box in image.boxes)
    results = kd.predict(run, folder, output=tmp_path / "p.csv", score=lowest)  # only the surest image has a box
    with open(tmp_path / "p.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["file", "class", "score", "ymin", "xmin", "ymax", "xmax"]
    (image,) = (image for image in results.predictions if image.boxes)
    assert (row["file"], row["class"]) == (image.file, image.boxes[0].class_name)
    assert [float(row[name]) for name in list(row)[3:]] == pytest.approx(image.boxes[0][3:], abs=0.005)
    results.save(tmp_path / "p.json")
    counts = {record["file"]: len(record["boxes"]) for record in json.loads((tmp_path / "p.json").read_text())}
    assert counts == {name: int(name == image.file) for name in SIZES}


@pytest.mark.parametrize("format", ["saved_model without suppression", "litert", "onnx"])
def test_exported_files_predict_the_boxes_of_their_network(network, predicted, folder, format, tmp_path):
    name, _, without = format.partition(" ")
    path = tmp_path / {"saved_model": "saved_model", "litert": "m.tflite", "onnx": "m.onnx"}[name]
    images = np.stack([np.asarray(Image.open(folder / "a" / "1.png"))])
    export_detector(network, path, name, sample=images, class_names=NAMES, suppression=not without)
    for image, other in zip(kd.predict(path, folder).predictions, predicted, strict=True):
        assert (image.file, image.size) == (other.file, other.size)
        assert [box[:2] for box in image.boxes] == [box[:2] for box in other.boxes]
        np.testing.assert_allclose([box[2:] for box in image.boxes], [box[2:] for box in other.boxes], atol=0.05)


def test_the_sheet_shows_boxes_in_the_color_of_their_class(run, predicted, folder, tmp_path):
    lowest = predicted[2].boxes[0].score  # of a/2.png
    results = kd.predict(run, folder / "a" / "2.png", sheet=tmp_path / "s.png", score=lowest)
    (box,) = results.predictions[0].boxes
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (8 + 360 + 2 * 14 + 8, 8 + 360 + 8, 3)
    picture = sheet[8 + 108 : 8 + 252, 8:368]  # 144 x 360 pixels, in the middle of its place
    color = [int(COLORS[box.number][place : place + 2], 16) for place in (1, 3, 5)]
    is_colored = (picture == color).all(-1)
    x, y = ((box.xmin + box.xmax) / 2 * 7.2, (box.ymin + box.ymax) / 2 * 7.2)
    for column, row in ((box.xmin * 7.2, y), (box.xmax * 7.2, y), (x, box.ymin * 7.2), (x, box.ymax * 7.2)):
        top, left = max(0, int(row) - 2), max(0, int(column) - 2)
        assert is_colored[top : int(row) + 3, left : int(column) + 3].any()
    assert (picture[~is_colored] == 0).all(-1).sum() > 30  # black letters and dark edges of lines


def test_what_a_detector_cannot_do_is_refused(run, folder, tmp_path):
    for option in ({"top": 2}, {"masks": tmp_path}):
        (name,) = option
        with pytest.raises(ValueError, match=f"options of detection for .*, but received {name}=, an option of"):
            kd.predict(run, folder, **option)
    for score in (0.01, 1.5):
        with pytest.raises(ValueError, match=r"predict\(score=...\) must be at (least 0.05|most 1), but received"):
            kd.predict(run, folder, score=score)
    broken = varied_detector("resnet8", (32, 32, 3), 3, pyramid=(2,), width=8, depth=1, anchor_scale=2.5)
    broken.set_weights([np.full_like(value, np.nan) for value in broken.get_weights()])
    with pytest.raises(ValueError, match="finite outputs of .* NaN or infinity. Check its weights"):
        kd.predict(broken, folder)


def test_the_program_prints_boxes(run, predicted, folder):
    printed = program(
        "predict", f"--model={run}", f"--images={folder}", f"--score={predicted[2].boxes[0].score}"
    ).stdout
    name, number, score, *place = predicted[2].boxes[0]
    assert f"a/2.png {name} {score:.3f} [{', '.join(f'{value:.1f}' for value in place)}]\n" in f"{printed}\n"
