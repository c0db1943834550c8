"""Exported detectors find what the Keras model finds, and an export that does not is rejected."""

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kd_keras import models
from kd_keras.detection.decoding import Detections
from kd_keras.export.runtimes import interpreter, load_outputs
from kd_keras.tasks.detection.export import export_detector
from kd_keras.tasks.detection.export_check import BoxTolerance, compare_detections
from kd_keras.tasks.detection.predictions import BoxPredictions
from scripts import draw_boxes
from tests.support.boxes import SIZE, detections
from tests.support.shapes import colored_rectangles

pytest.importorskip("pycocotools", reason="pycocotools is not installed")
IMAGES, LABEL = colored_rectangles(4, size=32, sides=(8, 16))
IMAGES = IMAGES.astype("uint8")
OPTIONS = {"score_threshold": 0.2, "candidates": 40, "detections": 5}
NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    network = models.build("detector/resnet8", (32, 32, 3), 3, pyramid=(2, 3), width=16, depth=1, anchor_scale=2.5)
    # Detections of a network without training have nearly equal scores and change places with rounding.
    network.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, 80), clipnorm=1.0))
    batch = tf.data.Dataset.from_tensors((IMAGES.astype("float32"), LABEL))
    network.fit(batch.repeat(80), verbose=0, shuffle=False)
    return network


def check(export, name):
    assert export.format == name and export.path.exists() and export.bytes > 0 and export.milliseconds > 0
    assert export.matched == 1 and export.score_difference < 1e-4 and export.box_difference < 1e-2
    assert export.ap == pytest.approx(export.source_ap, abs=1e-6) and export.ap > 0.3


def test_a_saved_model_takes_any_batch_and_names_its_classes(network, tmp_path):
    export = export_detector(
        network, tmp_path / "x", "saved_model", sample=IMAGES, labels=LABEL, class_names=NAMES, **OPTIONS
    )
    check(export, "saved_model")
    assert export.parameters == network.count_params()
    loaded = tf.saved_model.load(str(export.path))
    found, expected = loaded.serve(IMAGES[:3]), network.detect(IMAGES[:3].astype("float32"), **OPTIONS)
    assert found["boxes"].shape == (3, 5, 4) and found["count"].numpy().max() > 1
    np.testing.assert_array_equal(found["classes"], expected.classes)
    np.testing.assert_allclose(found["boxes"], expected.boxes, atol=1e-3)
    assert [name.decode() for name in loaded.signatures["class_names"]()["class_names"].numpy()] == list(NAMES)


def test_a_litert_file_draws_boxes_on_a_photograph(network, tmp_path):
    export = export_detector(
        network, tmp_path / "x.tflite", "litert", sample=IMAGES, labels=LABEL, class_names=NAMES, **OPTIONS
    )
    check(export, "litert")
    assert zipfile.ZipFile(export.path).read("labels.txt").decode().split("\n") == list(NAMES)
    Image.fromarray(IMAGES[0]).resize((80, 60)).save(tmp_path / "photo.jpg")
    draw_boxes.main(str(export.path), str(tmp_path / "photo.jpg"), str(tmp_path / "boxes.png"), lowest_score=0.2)
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("photo.jpg", "boxes.png"))
    is_red = (after == (255, 0, 0)).all(-1)
    assert after.shape == (60, 80, 3) and is_red.sum() > 20 and (after == before).all(-1).mean() > 0.5


@pytest.mark.slow
def test_all_other_forms_find_what_keras_finds(network, tmp_path):
    options = {"sample": IMAGES, "labels": LABEL, **OPTIONS}
    half = export_detector(network, tmp_path / "half.tflite", "litert_float16", **options)
    assert half.matched > 0.9 and half.score_difference < 0.01
    pytest.importorskip("tf2onnx")
    check(export_detector(network, tmp_path / "x.onnx", "onnx", class_names=NAMES, **options), "onnx")
    check(export_detector(network, tmp_path / "heads.onnx", "onnx", suppression=False, **options), "onnx")
    check(export_detector(network, tmp_path / "heads.tflite", "litert", suppression=False, **options), "litert")


@pytest.fixture(scope="module")
def int8(network, tmp_path_factory):
    """The int8 exports with suppression inside and without."""
    options = {"sample": IMAGES, "labels": LABEL, "tolerance": BoxTolerance(), "score_threshold": 0.2}
    options |= {"format": "litert_int8", "representative": IMAGES}
    folder = tmp_path_factory.mktemp("int8")
    whole = export_detector(network, folder / "x.tflite", **options)
    return whole, export_detector(network, folder / "heads.tflite", suppression=False, **options)


@pytest.mark.slow
def test_int8_is_of_the_network(int8):
    export, _ = int8
    assert export.format == "litert_int8" and export.matched > 0.5
    tensors = interpreter(export.path).get_tensor_details()
    kernels = [tensor for tensor in tensors if tensor["dtype"] == np.int8 and len(tensor["shape"]) == 4]
    assert len(kernels) > 20


@pytest.mark.slow
def test_int8_is_not_of_the_boxes(int8):
    tensors = interpreter(int8[0].path).get_tensor_details()
    of_boxes = [tensor for tensor in tensors if tensor["name"].startswith("postprocess/") and 4 in tensor["shape"]]
    assert of_boxes and not [tensor["name"] for tensor in of_boxes if tensor["dtype"] == np.int8]


@pytest.mark.slow
def test_int8_detections_are_boxes_of_anchors(int8):
    detected, of_anchors = (load_outputs(export.path, ["boxes"]) for export in int8)
    for image in IMAGES:
        boxes = np.clip(of_anchors(image[None])["boxes"], 0, 32)
        detections = detected(image[None])["boxes"][0]
        distances = np.abs(detections[:, None] - boxes).max(-1).min(1)
        assert detections.any() and distances[detections.any(-1)].max() <= 1e-4


def test_an_export_that_differs_is_rejected_and_the_earlier_one_is_kept(network, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "saved_model.pb").write_text("earlier")
    options = {"sample": IMAGES[:1], "suppression": False, **OPTIONS}
    with pytest.raises(ValueError, match="saved_model export is rejected.*matched at least 1.1.*matched=1"):
        export_detector(network, tmp_path / "x", "saved_model", tolerance=BoxTolerance(matched=1.1), **options)
    assert (tmp_path / "x" / "saved_model.pb").read_text() == "earlier" and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_exported_is_rejected(network, tmp_path):
    with pytest.raises(ValueError, match="sample= must be uint8 images"):
        export_detector(network, tmp_path / "x", "saved_model", sample=IMAGES.astype("float32"))
    with pytest.raises(ValueError, match="3 class names.*received 1: red"):
        export_detector(network, tmp_path / "x", "saved_model", sample=IMAGES, class_names=["red"], **OPTIONS)
    with pytest.raises(ValueError, match="of the 2 sample images.*labels of 4"):
        export_detector(network, tmp_path / "x", "saved_model", sample=IMAGES[:2], labels=LABEL, **OPTIONS)
    with pytest.raises(ValueError, match="'litert_int8' needs representative="):
        export_detector(network, tmp_path / "x.tflite", "litert_int8", sample=IMAGES)
    with pytest.raises(ValueError, match="'litert_int4' is not a format"):
        export_detector(network, tmp_path / "x.tflite", "litert_int4", sample=IMAGES)
    assert not list(tmp_path.iterdir())


def test_detections_are_compared_as_pairs():
    source = BoxPredictions(detections([(0.9, 0, 0, 0, 40, 40), (0.8, 1, 60, 0, 80, 20)]), None, SIZE, 2)
    other_order = detections([(0.8, 1, 60, 0, 80, 22), (0.7, 0, 0, 0, 40, 40)])
    assert compare_detections(source, other_order) == pytest.approx((1, 0.2, 2))
    assert compare_detections(source, detections([(0.9, 0, 0, 0, 40, 40)]))[0] == 0.5
    neighbor = detections([(0.5, 0, 0, 0, 40, 26), (0.8, 1, 60, 0, 80, 20)])  # IoU 0.65: suppression kept another box
    assert compare_detections(source, neighbor) == pytest.approx((1, 0, 14))
    nothing = BoxPredictions(detections([]), None, SIZE, 2)
    assert compare_detections(nothing, Detections(*detections([]))) == (1, 0, 0)
    assert compare_detections(nothing, other_order)[0] == 0
