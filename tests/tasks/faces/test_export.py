"""Exports of networks of faces, loaded by their own runtimes, and the script that compares two photographs."""

import keras
import numpy as np
import pytest
from PIL import Image

from kd_keras import models
from kd_keras.tasks.faces.embeddings import embed
from kd_keras.tasks.faces.export import FORMATS, export_embedder, load_embedder
from scripts.same_person import main

SHAPE = (16, 12, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, *SHAPE)).astype("uint8")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return models.build("embedder/resnet8", SHAPE, 50, dimension=8)


@pytest.fixture(scope="module")
def exports(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    return {
        name: export_embedder(network, directory / FORMATS[name][0], name, sample=IMAGES, representative=IMAGES)
        for name in FORMATS
        if name != "onnx"
    }


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "onnx"])
def test_raw_images_give_unit_embeddings(network, exports, name):
    run, shape = load_embedder(exports[name].path)
    assert shape == SHAPE
    embedding, expected = run(IMAGES), embed(network, IMAGES, flip=False)
    assert embedding.dtype == "float32" and embedding.shape == (20, 8)
    cosines = (embedding * expected).sum(-1)
    assert cosines.min() == pytest.approx(exports[name].lowest_cosine, abs=1e-5)
    assert cosines.min() > {"float32": 0.99999, "float16": 0.999, "int8": 0.95}[FORMATS[name][1]]


def test_the_head_is_not_exported(network, exports):
    variables = network.embedder.variables  # with the state of dropout
    assert exports["saved_model"].parameters == sum(int(np.prod(variable.shape)) for variable in variables)
    assert exports["litert_int8"].bytes < exports["litert"].bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["litert", "litert_int8"])
def test_mobilefacenet_in_litert(name, tmp_path):
    keras.utils.set_random_seed(0)
    network = models.build("embedder/mobilefacenet", SHAPE, 50, backbone={"width": 0.125, "dimension": 8})
    export = export_embedder(network, tmp_path / FORMATS[name][0], name, sample=IMAGES, representative=IMAGES)
    assert export.lowest_cosine > (0.95 if name == "litert_int8" else 0.99999)


def test_an_onnx_file(network, tmp_path):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    export = export_embedder(network, tmp_path / "model.onnx", "onnx", sample=IMAGES, flip=True)
    run, shape = load_embedder(export.path)
    assert shape == SHAPE
    np.testing.assert_allclose(run(IMAGES), embed(network, IMAGES, flip=True), atol=1e-5)


def test_a_mirrored_image_counts_too(network, tmp_path):
    export = export_embedder(network, tmp_path / "saved_model", "saved_model", sample=IMAGES, flip=True)
    run, _ = load_embedder(export.path)
    np.testing.assert_allclose(run(IMAGES), run(IMAGES[:, :, ::-1]), atol=1e-5)
    np.testing.assert_allclose(run(IMAGES), embed(network, IMAGES, flip=True), atol=1e-5)


def test_an_export_that_differs_is_rejected_and_the_earlier_one_stays(network, tmp_path):
    with pytest.raises(ValueError, match="rejected.*at least 1.5"):
        export_embedder(network, tmp_path / "model.tflite", "litert", sample=IMAGES, lowest_cosine=1.5)
    assert not list(tmp_path.iterdir())


def test_wrong_requests_raise(network, tmp_path):
    with pytest.raises(ValueError, match="Did you mean|did you mean"):
        export_embedder(network, tmp_path / "model.tflite", "litert8", sample=IMAGES)
    with pytest.raises(ValueError, match="representative="):
        export_embedder(network, tmp_path / "model_int8.tflite", "litert_int8", sample=IMAGES)
    with pytest.raises(ValueError, match="uint8 images"):
        export_embedder(network, tmp_path / "model.tflite", "litert", sample=IMAGES.astype("float32"))
    maps = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 1)])
    with pytest.raises(ValueError, match=r"embeddings \(B, D\)"):
        export_embedder(maps, tmp_path / "model.tflite", "litert", sample=IMAGES)


def test_the_script_compares_two_photographs(network, exports, tmp_path, capsys):
    paths = []
    for number in (0, 1):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(IMAGES[number, ..., 0]).save(paths[-1])
    x = embed(network, IMAGES[:2], flip=False)
    similarity = float(x[0] @ x[1])
    model = str(exports["litert"].path)
    assert main(model, paths[0], paths[0], "0.99") == 0
    assert main(model, *paths, str(similarity + 0.01)) == 1
    assert main(model, *paths, str(similarity - 0.01)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the same person (similarity 1.000")
    assert lines[1].startswith(f"different persons (similarity {similarity:.3f}")
