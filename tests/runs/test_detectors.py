"""Runs train classifiers: detectors and labels with boxes are rejected when they enter."""

import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras import data, models


@pytest.mark.parametrize(
    "model",
    [
        "detector/resnet8(pyramid=(0, 1), width=8)",
        lambda: models.build("detector/resnet8", (8, 8, 1), 10, pyramid=(0, 1), width=8),
    ],
    ids=["name", "model"],
)
def test_a_detector_is_rejected(model, tmp_path):
    with pytest.raises(ValueError, match="a classifier, but .* is a detector"):
        kd.train(model=model if isinstance(model, str) else model(), data="digits", epochs=1, run=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def test_labels_with_boxes_are_rejected(tmp_path):
    label = {"boxes": np.zeros((4, 2, 4), "float32"), "classes": np.full((4, 2), -1)}
    rows = {"image": np.zeros((4, 8, 8, 1), "uint8"), "index": np.arange(4), "label": label}
    source = data.Source(tf.data.Dataset.from_tensor_slices(rows), "shapes", 4, 3, image_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="the labels of 'shapes' are boxes"):
        kd.train(model="resnet8", data=source, epochs=1, run=tmp_path / "run")
