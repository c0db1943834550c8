"""The LR-ASPP segmentation network: its shapes, its logits by definition, its files and its use in a Distiller."""

import keras
import numpy as np
import pytest

from kd_keras import models
from kd_keras.networks.taps import Tapped
from tests.support.reference import resized

SHAPE = (24, 40, 3)
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return models.build("segmenter/resnet8", SHAPE, 5, width=8)


@pytest.mark.parametrize(
    "name, shape, options, sizes",
    [
        ("resnet8", (24, 40, 3), {}, ((24, 40), (6, 10))),
        ("resnet20", (30, 22, 1), {"levels": (1, 2)}, ((15, 11), (8, 6))),
        ("mobilenet_v2", (40, 72, 3), {"backbone": {"width": 0.5}}, ((10, 18), (3, 5))),
        ("applications/MobileNetV3Small", (64, 96, 3), {}, ((8, 12), (2, 3))),
        ("resnet18", (50, 70, 3), {"levels": (3, 3)}, ((7, 9), (7, 9))),
    ],
)
def test_any_network_with_stages_is_a_backbone(name, shape, options, sizes):
    network = models.build(f"segmenter/{name}", shape, 3, width=8, **options)
    specs = Tapped(network, ["logits", "logits_map", "segmentation_features", "stages"]).specs
    assert specs["logits"].shape == (None, *shape[:2], 3) and network.output_shape == specs["logits"].shape
    assert specs["logits"].activation in ("linear", "")
    assert specs["logits_map"].shape[1:3] in (sizes[0], specs["logits_map"].shape[1:3])
    assert specs["segmentation_features"].shape[-1] == 8
    assert (specs["logits_map"].shape[1:3], specs["segmentation_features"].shape[1:3]) == sizes


def test_logits_by_their_definition(network):
    names = ["coarse_logits", "fine_logits", "segmentation_relu", "segmentation_scale", "segmentation_features"]
    parts = keras.Model(network.input, {name: network.get_layer(name).output for name in [*names, "logits"]})
    values = {name: np.asarray(value, "float64") for name, value in parts(IMAGES).items()}
    features = values["segmentation_relu"] * values["segmentation_scale"]
    np.testing.assert_allclose(values["segmentation_features"], features, atol=1e-6)
    assert values["segmentation_scale"].shape == (2, 1, 1, 8)
    fine = values["fine_logits"]
    expected = resized(resized(values["coarse_logits"], fine.shape[1:3]) + fine, SHAPE[:2])
    np.testing.assert_allclose(values["logits"], expected, atol=1e-6)


def test_a_saved_network_predicts_the_same(network, tmp_path):
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(IMAGES), network(IMAGES))


def test_half_precision_keeps_logits_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    network = models.build("segmenter/resnet8", SHAPE, 3, width=8)
    assert network(IMAGES).dtype == "float32" and network.get_layer("coarse_logits").compute_dtype == "float16"


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"levels": (0, 3)}, r"stages, which are \[0, 1, 2\].*\(0, 3\)"),
        ({"levels": (2, 1)}, "levels"),
        ({"width": 0}, "width"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_arguments_raise(options, expected):
    with pytest.raises(ValueError, match=expected):
        models.build("segmenter/resnet8", SHAPE, 3, **options)


def test_wrong_backbones_raise():
    with pytest.raises(ValueError, match="classes"):
        models.build("segmenter/resnet8", SHAPE, 1)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    with pytest.raises(ValueError, match="a fixed size"):
        models.segmenter(keras.Model(inputs, keras.layers.Dense(2)(x)), 3)
    assert models.takes_normalization("segmenter/resnet8")
    assert not models.takes_normalization("segmenter/applications/ResNet50")
