"""Class maps in every format, run by its own runtime and compared with the Keras model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import models
from kd_keras.tasks.segmentation.export import AGREEMENT, ClassMaps, export_class_maps, load_class_maps
from tests.support.reference import resized

SHAPE = (16, 24, 3)
SLOW = pytest.mark.slow
NAMES = ("sky", "road", "car")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    network = models.build("segmenter/resnet8", SHAPE, 3, width=8)
    network.get_layer("coarse_logits").kernel.assign(np.random.default_rng(0).normal(size=(1, 1, 8, 3)))
    network.get_layer("fine_logits").kernel.assign(np.random.default_rng(1).normal(size=(1, 1, 16, 3)))
    return network


def smooth_images(size, count=6, seed=0):
    """Noise of few large patches, as photographs have."""
    noise = np.random.default_rng(seed).uniform(0, 255, (count, 4, 5, 3))
    return resized(noise, size).round().astype("uint8")


@pytest.fixture(scope="module")
def sample():
    return smooth_images(SHAPE[:2])


def file_of(folder, format):
    return folder / {"saved_model": "student", "onnx": "student.onnx"}.get(format, f"{format}.tflite")


@pytest.mark.parametrize("format", [pytest.param(f, marks=SLOW if f == "litert_float16" else ()) for f in AGREEMENT])
def test_every_format_gives_the_classes_of_the_network(format, network, sample, tmp_path):
    path = file_of(tmp_path, format)
    options = {"representative": smooth_images(SHAPE[:2], 20, seed=1)} if format == "litert_int8" else {}
    export = export_class_maps(network, path, format, sample=sample, class_names=NAMES, **options)
    maps = load_class_maps(path)(sample[:1])
    expected = network.predict(sample.astype("float32"), verbose=0).argmax(-1)
    assert maps.shape == (1, *SHAPE[:2]) and maps.dtype == np.uint8 and len(np.unique(expected)) > 1
    assert (maps == expected[:1]).mean() >= AGREEMENT[format] - 0.05
    assert export.path == path and export.agreement >= AGREEMENT[format] and export.bytes > 0
    assert export.parameters >= network.count_params() or format.startswith(("litert", "onnx"))


def test_images_of_another_size_are_resized_inside(network, tmp_path):
    images = smooth_images((20, 40), 2)
    maps = ClassMaps(network, (20, 40))(tf.constant(images))["classes"].numpy()
    logits = network(resized(images.astype("float64"), SHAPE[:2]).astype("float32")).numpy()
    expected = resized(logits.astype("float64"), (20, 40)).argmax(-1)
    assert maps.shape == (2, 20, 40) and (maps == expected).mean() > 0.999
    path = file_of(tmp_path, "litert")
    export_class_maps(network, path, "litert", sample=images)
    assert (load_class_maps(path)(images[:1]) == expected[:1]).mean() > 0.999


def test_an_export_that_differs_is_rejected_and_the_previous_file_is_kept(network, sample, tmp_path):
    path = file_of(tmp_path, "litert")
    path.write_text("previous")
    with pytest.raises(ValueError, match="rejected.*at least 1.5"):
        export_class_maps(network, path, "litert", sample=sample, agreement=1.5)
    assert path.read_text() == "previous" and list(tmp_path.iterdir()) == [path]


def test_wrong_arguments_raise(network, sample, tmp_path):
    with pytest.raises(ValueError, match="format"):
        export_class_maps(network, tmp_path / "a.tflite", "tflite", sample=sample)
    with pytest.raises(ValueError, match=r"end in \.tflite"):
        export_class_maps(network, tmp_path / "a.onnx", "litert", sample=sample)
    with pytest.raises(ValueError, match="representative="):
        export_class_maps(network, tmp_path / "a.tflite", "litert_int8", sample=sample)
    with pytest.raises(ValueError, match="sample= must be uint8"):
        export_class_maps(network, tmp_path / "a.tflite", "litert", sample=sample.astype("float32"))
    with pytest.raises(ValueError, match=r"logits \(B, H, W, K\)"):
        ClassMaps(models.build("resnet8", SHAPE, 3))


def test_a_saved_model_replaces_no_other_files(network, sample, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains other files"):
        export_class_maps(network, tmp_path, "saved_model", sample=sample)
    assert (tmp_path / "notes.txt").read_text() == "mine"
