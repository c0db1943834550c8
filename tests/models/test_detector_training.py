"""A detector learns: it finds all objects of eight images after a short training."""

import keras
import pytest
import tensorflow as tf

from kd_keras import models
from kd_keras.evaluation import average_precision
from tests.support.shapes import colored_rectangles

STEPS = 90


@pytest.mark.parametrize("head", ["retinanet", "gfl"])
def test_a_detector_overfits_eight_images(head):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    keras.utils.set_random_seed(0)
    images, label = colored_rectangles(8)
    options = {"head": head, "pyramid": (2, 3), "width": 24, "depth": 1, "anchor_scale": 2.5}
    network = models.build("detector/resnet8", (48, 48, 3), 3, **options)
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, STEPS)
    network.compile(keras.optimizers.Adam(schedule, clipnorm=1.0))
    before = dict(average_precision(label, network.detect(images), (48, 48), 3))
    network.fit(tf.data.Dataset.from_tensors((images, label)).repeat(STEPS), verbose=0, shuffle=False)
    after = dict(average_precision(label, network.detect(images), (48, 48), 3))
    assert before["ap"] < 0.1 and after["ap"] > 0.9, (before, after)
