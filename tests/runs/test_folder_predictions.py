"""kd_keras.predict and kd_keras.embed: folders of images through runs, Keras models and exported files."""

import csv
import json
import logging
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras import models
from kd_keras.tasks.faces.export import export_embedder
from tests.support.networks import convolutional
from tests.support.programs import program
from tests.support.runs import saved_run, trained

NAMES = [str(number) for number in range(10)][::-1]  # of the digits, in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Gray images of three sizes in nested folders, one file that is damaged, and one that is none."""
    place = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number, size in enumerate([(8, 8), (8, 8), (20, 13), (40, 40), (8, 8), (8, 8)]):
        path = place / ("left" if number % 2 else "right/deep") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, size).astype("uint8")).save(path)
    (place / "left" / "damaged.png").write_bytes(b"no image")
    (place / "notes.txt").write_text("no image")
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = trained(tmp_path_factory.mktemp("runs"), "student", 4)
    data = {"class_names": NAMES, "image_shape": [8, 8, 1]}
    (run / "result.json").write_text(json.dumps({"data": data, "metric": "accuracy", "last": {}}))
    return run


def pixels(folder, name):
    """The image as the test images are read."""
    image = np.asarray(Image.open(folder / name))[..., None]
    resized = tf.image.resize(image, (8, 8), antialias=True)
    return np.round(resized.numpy())


FILES = ["left/1.png", "left/3.png", "left/5.png", "right/deep/0.png", "right/deep/2.png", "right/deep/4.png"]


def test_the_predictions_of_a_run_are_those_of_its_network(run, folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "kd_keras"):
        results = kd.predict(run, folder, output=tmp_path / "p.csv", sheet=tmp_path / "s.png", top=2, batch_size=4)
    assert [row.file for row in results.predictions] == FILES and list(results.unreadable) == ["left/damaged.png"]
    assert any("1 of 7 files are skipped" in record.getMessage() for record in caplog.records)
    images = np.stack([pixels(folder, name) for name in FILES])
    expected = tf.nn.softmax(kd.Run(run).model()(images)).numpy()
    for row, values in zip(results.predictions, expected, strict=True):
        best = np.argsort(-values)[:2]
        assert row.classes == tuple(NAMES[place] for place in best)
        np.testing.assert_allclose(row.probabilities, values[best], atol=1e-5)
    with open(tmp_path / "p.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["file", "class", "probability", "class_2", "probability_2"]
    assert [(row["file"], row["class_2"]) for row in table] == [
        (row.file, row.classes[1]) for row in results.predictions
    ]
    sheet = Image.open(tmp_path / "s.png").convert("L")
    assert sheet.size == (3 * 136 + 8, 2 * 164 + 8)
    shown = np.asarray(sheet)[8 : 8 + 128, 8 : 8 + 128][8::16, 8::16]  # the first image, enlarged 16 times
    np.testing.assert_array_equal(shown, np.asarray(Image.open(folder / FILES[0])))
    results.save(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())[2]["file"] == FILES[2]


def test_images_of_12_bits_are_scaled_as_the_option_or_the_run_says(run, tmp_path):
    values = np.random.default_rng(1).integers(0, 4096, (8, 8)).astype("uint16")
    (tmp_path / "images").mkdir()
    Image.fromarray(values).save(tmp_path / "images" / "deep.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="the highest value is .*Pass image_bits="):
        kd.predict(run, tmp_path / "images")
    with pytest.raises(ValueError, match="image_bits= from 8 to 16"):
        kd.predict(run, tmp_path / "images", image_bits=7)
    expected = tf.nn.softmax(kd.Run(run).model()(np.round(values[None, ..., None] / 4095 * 255))).numpy().max()
    (row,) = kd.predict(run, tmp_path / "images", image_bits=12).predictions
    assert row.probabilities[0] == pytest.approx(expected, abs=1e-5)
    shutil.copytree(run, tmp_path / "run")
    with open(tmp_path / "run" / "flags.txt", "a") as flags:
        flags.write("--image_bits=12\n")
    (row,) = kd.predict(tmp_path / "run", tmp_path / "images", sheet=tmp_path / "s.png").predictions
    assert row.probabilities[0] == pytest.approx(expected, abs=1e-5)
    shown = np.asarray(Image.open(tmp_path / "s.png").convert("L"))[8:136, 8:136][8::16, 8::16]
    np.testing.assert_allclose(shown, values / 4095 * 255, atol=1)
    vectors = kd.embed(tmp_path / "run", tmp_path / "images").vectors
    np.testing.assert_array_equal(vectors, kd.embed(run, tmp_path / "images", image_bits=12).vectors)


def test_a_sheet_does_not_replace_an_image(run, folder):
    before = (folder / "left" / "1.png").read_bytes()
    for images in (folder, folder / "left" / "1.png"):
        with pytest.raises(ValueError, match="a contact sheet outside of"):
            kd.predict(run, images, sheet=folder / "left" / "1.png")
    assert (folder / "left" / "1.png").read_bytes() == before


def test_exported_files_predict_what_their_network_predicts(run, folder, tmp_path):
    exports = kd.export(run, ["saved_model", "litert", "onnx"], output=tmp_path)
    expected = kd.predict(run, folder)
    for export in exports:
        results = kd.predict(export.path, folder)
        for row, other in zip(results.predictions, expected.predictions, strict=True):
            assert row[:2] == other[:2]
            np.testing.assert_allclose(row.probabilities, other.probabilities, atol=1e-5)


def test_a_single_sigmoid_unit_has_two_classes(folder):
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")])
    for row in kd.predict(network, folder / FILES[0]).predictions:
        output = float(network(pixels(folder, FILES[0])[None])[0, 0])
        assert dict(zip(row.classes, row.probabilities, strict=True))["1"] == pytest.approx(output, abs=1e-4)


def test_what_cannot_be_predicted_is_refused(run, folder, tmp_path):
    with pytest.raises(TypeError, match="images in memory call the network"):
        kd.predict(run, np.zeros((2, 8, 8, 1), "uint8"))
    with pytest.raises(ValueError, match="which does not exist"):
        kd.predict(run, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"Expected images .*, but received none"):
        kd.predict(run, tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="None of the 1 images can be read: .*a.png is not an image"):
        kd.predict(run, tmp_path)
    with pytest.raises(ValueError, match="an output that ends in .csv or .json"):
        kd.predict(run, folder, output=tmp_path / "p.txt")
    any_size = convolutional(4, 10, (None, None, 1))
    with pytest.raises(ValueError, match="image_size= for 'net', which reads images of"):
        kd.predict(any_size, folder)
    assert len(kd.predict(any_size, folder, image_size=(8, 8)).predictions) == 6
    with pytest.raises(ValueError, match="an output in a folder that exists"):
        kd.predict(run, folder, output=tmp_path / "nowhere" / "p.csv")
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(ValueError, match="a contact sheet that is a file, but received .*sheet.png, which is a folder"):
        kd.predict(run, folder, sheet=tmp_path / "sheet.png")
    for option in ({"score": 0.5}, {"masks": tmp_path / "masks"}):
        (name,) = option
        with pytest.raises(ValueError, match=f"options of classification for 'student', but received {name}=, an opt"):
            kd.predict(run, folder, **option)
    sequence = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Reshape((8, 8)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"logits .B, K. of a classifier or .* 'sequential.* logits of shape"):
        kd.predict(sequence, folder)
    broken = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(np.nan), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="finite outputs of .*, but received NaN or infinity"):
        kd.predict(broken, folder)


def test_networks_of_faces_and_other_files_are_refused(run, folder, tmp_path):
    network = models.build("embedder/resnet8", (16, 16, 1), 5, dimension=8)
    faces = saved_run(tmp_path / "faces", network, "faces", NAMES)
    export_embedder(network, tmp_path / "saved_model", "saved_model", sample=np.zeros((1, 16, 16, 1), "uint8"))
    for source in (faces, network, tmp_path / "saved_model"):
        with pytest.raises(ValueError, match=r"recognizes faces.*kd_keras.embed.*experiments.embed.*same_person.py"):
            kd.predict(source, folder)
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()]).export(tmp_path / "other", verbose=False)
    with pytest.raises(
        ValueError, match=r"an exported file as export writes it, with the outputs .*, but received .*/oth"
    ):
        kd.predict(tmp_path / "other", folder)


def test_the_embeddings_of_a_folder(run, folder, tmp_path):
    embeddings = kd.embed(run, folder, output=tmp_path / "e.npz", page=tmp_path / "e.html", neighbors=2, batch_size=4)
    network = kd.Run(run).model()
    pooled = keras.Model(network.layers[-1].input, network.layers[-1].get_layer("pool").output)
    images = np.stack([pixels(folder, name) for name in FILES])
    np.testing.assert_allclose(embeddings.vectors, pooled(images / 255), atol=1e-4)
    with np.load(tmp_path / "e.npz") as file:
        assert file["files"].tolist() == FILES
        np.testing.assert_array_equal(file["embedding"], embeddings.vectors)
    embeddings.save(tmp_path / "E.NPZ")
    assert (tmp_path / "E.NPZ").read_bytes()[:2] == b"PK" and not list(tmp_path.glob("E.NPZ?*"))
    unit = embeddings.vectors / np.linalg.norm(embeddings.vectors, axis=-1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(6)
    places, values = embeddings.neighbors(2)
    np.testing.assert_array_equal(places, np.argsort(-cosines, axis=-1, kind="stable")[:, :2])
    np.testing.assert_allclose(values, -np.sort(-cosines, axis=-1)[:, :2], atol=1e-6)
    centered = embeddings.vectors - embeddings.vectors.mean(0)
    singular = np.linalg.svd(centered.astype("float64"), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(embeddings.plane(), axis=0), singular[:2], rtol=1e-4, atol=1e-5)
    page = (tmp_path / "e.html").read_text()
    assert page.count("data:image/png") == 6 * 3 and "right/deep/0.png" in page and "<svg" in page
    assert "http" not in page


def test_equal_images_are_nearest_neighbors_and_one_image_has_none(run, folder, tmp_path):
    for name in ("a", "b"):
        Image.open(folder / FILES[0]).save(tmp_path / f"{name}.png")
    Image.open(folder / FILES[1]).save(tmp_path / "c.png")
    places, cosines = kd.embed(run, tmp_path).neighbors(1)
    assert places[:2, 0].tolist() == [1, 0] and cosines[:2, 0] == pytest.approx(1, abs=1e-5)
    alone = kd.embed(run, folder / FILES[0], page=tmp_path / "one.html")
    assert alone.neighbors()[0].shape == (1, 0) and alone.plane().tolist() == [[0, 0]]


def test_an_exported_classifier_has_no_embedding(run, folder, tmp_path):
    (export,) = kd.export(run, ["litert"], output=tmp_path)
    with pytest.raises(ValueError, match="Pass the run that it was exported from"):
        kd.embed(export.path, folder)
    with pytest.raises(ValueError, match="a file that ends in .npz"):
        kd.embed(run, folder, output=tmp_path / "e.csv")
    for files in ({"output": tmp_path / "missing/e.npz"}, {"page": tmp_path / "missing/e.html"}):
        with pytest.raises(ValueError, match="in a folder that exists"):
            kd.embed(run, folder, **files)


def test_the_programs(run, folder, tmp_path):
    ran = program("predict", f"--model={run}", f"--images={folder}", f"--output={tmp_path / 'p.json'}", "--top=1")
    assert "6 images" in ran.stdout and len(json.loads((tmp_path / "p.json").read_text())) == 6
    ran = program("predict", f"--model={run}", f"--images={folder / FILES[0]}", "--top=1")
    assert f"\n{FILES[0].rpartition('/')[2]} " in f"\n{ran.stdout}"
    ran = program("embed", f"--model={run}", f"--images={folder}", f"--output={tmp_path / 'e.npz'}")
    assert "6 images, 8 values each" in ran.stdout and (tmp_path / "e.npz").exists()
