"""A detector with decoding and non-maximum suppression inside, exported for images of one batch of one."""

import keras
import numpy as np
import tensorflow as tf

from kd_keras import models
from kd_keras.export.runtimes import interpreter
from tests.support.reference import random
from tests.support.shapes import colored_rectangles


def test_litert_finds_what_keras_finds(tmp_path):
    keras.utils.set_random_seed(0)
    images, _ = colored_rectangles(4, size=32, sides=(8, 16))
    network = models.build("detector/resnet8", (32, 32, 3), 3, pyramid=(2, 3), width=8, depth=1, anchor_scale=2.5)
    head = network.get_layer("class_predictions")  # before training it predicts nearly the same everywhere
    head.pointwise_kernel.assign(random(*head.pointwise_kernel.shape, scale=0.5))
    options = {"detections": 5, "candidates": 40, "score_threshold": 0.02}
    archive = keras.export.ExportArchive()
    archive.track(network)
    signature = [tf.TensorSpec((1, 32, 32, 3), tf.float32, name="images")]
    archive.add_endpoint("serve", lambda x: network.detect(x, **options)._asdict(), input_signature=signature)
    archive.write_out(str(tmp_path / "saved_model"), verbose=False)
    # The converter allows only operations of LiteRT itself, none of TensorFlow's.
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved_model")).convert()
    (tmp_path / "detector.tflite").write_bytes(content)
    run = interpreter(tmp_path / "detector.tflite").get_signature_runner("serving_default")
    counts = []
    for image in images:
        expected, found = network.detect(image[None], **options), run(images=image[None])
        counts.append(int(found["count"][0]))
        assert counts[-1] == int(expected.count[0])
        np.testing.assert_array_equal(found["classes"], expected.classes)
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
        np.testing.assert_allclose(found["boxes"], expected.boxes, atol=1e-2)
    assert max(counts) > 1
