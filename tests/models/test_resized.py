"""Networks that resize their images first."""

import keras
import numpy as np
import pytest

from kd_keras import frozen, models
from kd_keras.models import resized
from kd_keras.networks.stages import StagedGraph


@pytest.mark.parametrize("name", ["resnet8", "shufflenet_v2", "mobilenet_v3_small", "vit_lite"])
def test_it_computes_the_network_on_resized_images(name):
    network = models.build(name, (24, 24, 3), 10)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    small = keras.ops.image.resize(images, (24, 24))
    expected = network(small, training=False)
    model = resized(network, (32, 32, 3))
    # Called without training=, too: a Resizing layer would switch BatchNorm to the statistics of the batch.
    for result in (model(images), model(images, training=False), model.predict(images, verbose=0)):
        np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(frozen(model)(images), expected, atol=1e-4)


def test_build_takes_a_resolution_for_every_classifier():
    model = models.build("resnet8", (32, 32, 3), 10, resolution=24)
    assert model.input_shape == (None, 32, 32, 3) and model.name == "resnet8"
    assert [tuple(stage.shape[1:3]) for stage in StagedGraph(model).stages()] == [(24, 24), (12, 12), (6, 6)]
    exits = models.build("multi_exit/resnet8", (32, 32, 1), 10, resolution=16)
    assert exits.input_shape == (None, 32, 32, 1)
    application = models.build("applications/MobileNetV3Small", (64, 48, 3), 5, resolution=32, weights=None)
    assert application.input_shape == (None, 64, 48, 3) and application.output_shape == (None, 5)


def test_it_is_saved_and_loaded(tmp_path):
    model = models.build("resnet8", (16, 16, 1), 10, resolution=12)
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 1)).astype("float32")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "model.keras")(images), model(images), atol=1e-6)


def test_it_resizes_in_float32_in_mixed_precision():
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.build("resnet8", (16, 16, 3), 10, resolution=12)
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    assert model.get_layer("resize").compute_dtype == "float32" != model.get_layer("stem_conv").compute_dtype


def test_invalid_requests_are_refused():
    with pytest.raises(ValueError, match="Expected 3 channels, but received 1"):
        resized(models.mlp((4, 4, 3), 10), (8, 8, 1))
    with pytest.raises(ValueError, match="resolution"):
        models.build("resnet8", (32, 32, 3), 10, resolution=0)
