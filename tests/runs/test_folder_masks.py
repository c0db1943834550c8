"""kd_keras.predict with segmentation networks: masks in the original size, shares of pixels, sheets with a key."""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras.data.mask_folders import read_mask
from kd_keras.data.mask_values import make_mask_values
from kd_keras.tasks.segmentation.export import export_class_maps
from kd_keras.tasks.segmentation.figures import class_colors, color_mask
from tests.support.programs import program
from tests.support.runs import saved_run

NAMES = ["sky", "road", "tree", "car"]
SIZES = {"a/1.png": (16, 16), "a/2.jpg": (20, 50), "3.bmp": (9, 7)}  # (height, width)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    (place / "a").mkdir()
    random = np.random.default_rng(0)
    for name, size in SIZES.items():
        Image.fromarray(random.integers(0, 256, (*size, 3)).astype("uint8")).save(place / name)
    return place


@pytest.fixture(scope="module")
def network():
    """A network whose class maps vary from pixel to pixel."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Rescaling(1 / 128, -1), keras.layers.Conv2D(4, 3, padding="same", name="logits_map")]
    return keras.Sequential([keras.Input((16, 16, 3)), *layers], name="student")


@pytest.fixture(scope="module")
def run(network, tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("runs") / "student", network, "segmentation", NAMES)


def expected_mask(network, path):
    """The argmax of the network, resized by nearest neighbor in plain NumPy."""
    image = np.asarray(Image.open(path))
    pixels = np.round(tf.image.resize(image, (16, 16), antialias=True).numpy())
    classes = np.asarray(network(pixels[None]))[0].argmax(-1)
    rows, columns = (((np.arange(size) + 0.5) * 16 / size).astype(int) for size in image.shape[:2])
    return classes[rows][:, columns]


def test_masks_are_the_argmax_of_the_network_in_the_original_size(run, network, folder, tmp_path):
    results = kd.predict(run, folder, masks=tmp_path / "masks", output=tmp_path / "p.csv", batch_size=2)
    assert {row.file: row.mask for row in results.predictions} == {
        name: name.rpartition(".")[0] + ".png" for name in SIZES
    }
    with open(tmp_path / "p.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["file", "mask", *(f"share_{name}" for name in NAMES)]
    for row, cells in zip(results.predictions, table, strict=True):
        expected = expected_mask(network, folder / row.file)
        path = tmp_path / "masks" / row.mask
        np.testing.assert_array_equal(read_mask(path, make_mask_values(NAMES)), expected)  # as training reads masks
        assert expected.shape == SIZES[row.file] and len(np.unique(expected)) > 2
        shares = [(expected == number).mean() for number in range(4)]
        assert list(row.shares) == NAMES and list(row.shares.values()) == pytest.approx(shares)
        assert [float(cells[f"share_{name}"]) for name in NAMES] == pytest.approx(shares, abs=1e-5)
        colors = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(colors, class_colors(4)[expected])
    results.save(tmp_path / "p.json")
    record = json.loads((tmp_path / "p.json").read_text())[0]
    assert (record["file"], record["mask"], list(record["shares"])) == ("3.bmp", "3.png", NAMES)


@pytest.mark.parametrize("format", ["saved_model", "litert", "onnx"])
def test_exported_files_predict_the_masks_of_their_network(run, network, folder, format, tmp_path):
    path = tmp_path / {"saved_model": "saved_model", "litert": "m.tflite", "onnx": "m.onnx"}[format]
    sample = np.asarray(Image.open(folder / "a" / "1.png"))[None]
    export_class_maps(network, path, format, sample=sample, class_names=NAMES)
    expected = kd.predict(run, folder, masks=tmp_path / "expected")
    results = kd.predict(path, folder, masks=tmp_path / "masks")
    for row, other in zip(results.predictions, expected.predictions, strict=True):
        masks = [np.asarray(Image.open(tmp_path / name / row.mask)) for name in ("masks", "expected")]
        assert (masks[0] == masks[1]).mean() >= 0.999 and list(row.shares) == list(other.shares)


def test_logits_on_a_coarse_grid_are_resized_to_the_images_as_in_the_evaluation(folder, tmp_path):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((None, None, 3)), keras.layers.Rescaling(1 / 128, -1), keras.layers.Conv2D(3, 4, strides=4)]
    network = keras.Sequential(layers)  # without names, for images of any size
    (row,) = kd.predict(network, folder / "a" / "1.png", masks=tmp_path, image_size=(16, 16)).predictions
    logits = network(np.asarray(Image.open(folder / "a" / "1.png"), "float32")[None])
    expected = tf.image.resize(logits, (16, 16)).numpy()[0].argmax(-1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "1.png")), expected)
    assert list(row.shares) == ["0", "1", "2"]


def test_the_sheet_overlays_the_masks_and_has_a_key(run, network, folder, tmp_path):
    file = folder / "a" / "1.png"
    (row,) = kd.predict(run, file, masks=tmp_path / "masks", sheet=tmp_path / "s.png").predictions
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    shown = sheet[8:264, 8:264][8::16, 8::16]  # enlarged 16 times
    np.testing.assert_array_equal(shown, color_mask(np.asarray(Image.open(file)), expected_mask(network, file), 4))
    numbers = [number for number, name in enumerate(NAMES) if row.shares[name]]
    top = 8 + 256 + 2 * 14 + 8
    for place, number in enumerate(numbers):
        corner = (top + place // 2 * 18 + 7, 8 + place % 2 * 120 + 7)  # two names in a row
        assert sheet[corner].tolist() == class_colors(4)[number].tolist()


def test_nothing_but_masks_of_an_earlier_prediction_is_overwritten(run, folder, tmp_path):
    masks = tmp_path / "masks"
    kd.predict(run, folder / "3.bmp", masks=masks)
    before = (masks / "3.png").read_bytes()
    (masks / "3.png").touch()
    kd.predict(run, folder / "3.bmp", masks=masks)
    assert (masks / "3.png").read_bytes() == before
    (masks / "a").mkdir()
    Image.new("P", (4, 4)).save(masks / "a" / "1.png")
    with pytest.raises(
        ValueError, match=r"no files at the places of the masks .*, but received .*a/1.png. Name another"
    ):
        kd.predict(run, folder, masks=masks)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match="a folder for the masks, but received .*file, which is a file"):
        kd.predict(run, folder, masks=tmp_path / "file")
    with pytest.raises(ValueError, match="a folder for the masks outside of .*, but received .*inside"):
        kd.predict(run, folder, masks=folder / "inside")
    assert not (folder / "inside").exists()
    with pytest.raises(ValueError, match="a contact sheet outside of .*masks"):
        kd.predict(run, folder, masks=tmp_path / "masks", sheet=tmp_path / "masks" / "1.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a folder for the masks, but received .*file, which is a file"):
        kd.predict(run, folder, masks=tmp_path / "file" / "masks")


def test_what_cannot_be_masked_is_refused(run, network, folder, tmp_path):
    with pytest.raises(ValueError, match="masks= for 'student', a segmentation network, but received none. Pass a fol"):
        kd.predict(run, folder, sheet=tmp_path / "s.png")
    with pytest.raises(
        ValueError, match="options of segmentation for 'student', but received score=, an option of det"
    ):
        kd.predict(run, folder, masks=tmp_path / "masks", score=0.5)
    for name in ("1.jpg", "1.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"one image for each mask in .*, but received 1.jpg and 1.png, which have the same"
    ):
        kd.predict(run, tmp_path, masks=Path(f"{tmp_path}_masks"))
    few = saved_run(tmp_path / "few", network, "segmentation", NAMES[:2])
    with pytest.raises(ValueError, match="2 classes, as their names say, but received 4 outputs"):
        kd.predict(few, folder, masks=tmp_path / "masks")
    assert not (tmp_path / "masks").exists() and not Path(f"{tmp_path}_masks").exists()


def test_the_program_writes_masks_and_prints_shares(run, folder, tmp_path):
    arguments = [f"--model={run}", f"--images={folder / '3.bmp'}", f"--masks={tmp_path / 'masks'}"]
    printed = program("predict", *arguments).stdout
    (row,) = kd.predict(run, folder / "3.bmp", masks=tmp_path / "again").predictions
    assert str(row) in printed and f"{tmp_path / 'masks'}: 1 images" in printed
    assert (tmp_path / "masks" / "3.png").read_bytes() == (tmp_path / "again" / "3.png").read_bytes()
