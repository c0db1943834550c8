"""The zoo: parameters as published, names, and what is refused."""

import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest

from kd_keras.models import ZOO, applications, build, names
from kd_keras.taps import Tapped

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "models.json"
# name -> name in the reference, trainable parameters at 100 classes and 32 px, convolutions, widths of the stages
PUBLISHED = {
    "resnet8": ("resnet8", 83892, 9, (16, 32, 64)),
    "resnet20": ("resnet20", 278324, 21, (16, 32, 64)),
    "resnet56": ("resnet56", 861620, 57, (16, 32, 64)),
    "resnet8x4": ("resnet8x4", 1233540, 10, (64, 128, 256)),
    "resnet32x4": ("resnet32x4", 7433860, 34, (64, 128, 256)),
    "mobilenet_v2": ("MobileNetV2", 812836, 53, None),
}


def trainable(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_layers_as_published(name):
    reference, parameters, convolutions, widths = PUBLISHED[name]
    model = build(name, (32, 32, 3), 100)
    assert trainable(model) == parameters
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") + kinds.count("DepthwiseConv2D") == convolutions
    assert kinds.count("BatchNormalization") == convolutions
    if widths:
        shapes = [spec.shape[1:] for spec in Tapped(model, ["stages"]).specs["stages"]]
        assert shapes == [(32 // 2**stage, 32 // 2**stage, width) for stage, width in enumerate(widths)]
    if REFERENCE.exists():
        entry = json.loads(REFERENCE.read_text())["models"][reference]
        assert (entry["params"], entry["layers"]["conv"]) == (parameters, convolutions)


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet8x4", "mobilenet_v2"])
def test_kernels_and_taps_equal_the_reference(name):
    if not REFERENCE.exists():
        pytest.skip("no reference beside the project")
    entry = json.loads(REFERENCE.read_text())["models"][PUBLISHED[name][0]]
    model = build(name, (32, 32, 3), 100)
    found: dict[str, int] = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            height, width, channels, _ = layer.kernel.shape
            text = f"{channels}x1x{height}x{width}/s{layer.strides[0]}p{height // 2}g{channels}"
        elif isinstance(layer, keras.layers.Conv2D):
            height, width, ins, outs = layer.kernel.shape
            text = f"{outs}x{ins}x{height}x{width}/s{layer.strides[0]}p{height // 2}g1"
        else:
            continue
        found[text] = found.get(text, 0) + 1
    assert found == entry["conv_weights_OIHW"]
    assert Tapped(model, ["embedding"]).specs["embedding"].shape[1:] == tuple(entry["pooled_feat"][1:])


def test_depth_by_the_rule_of_the_paper():
    """6 n + 2 weighted layers: every deeper network of the family has six convolutions more a block of each stage."""
    for name, blocks in (("resnet14", 2), ("resnet32", 5), ("resnet44", 7), ("resnet110", 18)):
        layers = [layer.name for layer in build(name, (8, 8, 1), 10).layers]
        assert sum(layer.endswith("_sum") for layer in layers) == 3 * blocks


@pytest.mark.parametrize("name", ZOO)
def test_every_model_gives_logits_on_small_grey_images(name):
    model = build(name, (8, 8, 1), 10)
    logits = np.array(model(np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")))
    assert logits.shape == (2, 10) and np.isfinite(logits).all()
    zeros = np.zeros((1, 8, 8, 1))
    np.testing.assert_array_equal(Tapped(model, ["logits"])(zeros, False)[0], model(zeros))


def test_every_classifier_of_keras_applications_is_known():
    assert len(applications.names()) >= 38 and {"ResNet50", "VGG16", "MobileNet"} <= set(applications.names())
    assert "applications/MobileNetV3Small" in names()


def test_an_application_and_weights_from_a_file(tmp_path):
    model = build("applications/mobilenet", (32, 32, 3), 7, alpha=0.25)
    model.save_weights(tmp_path / "some.weights.h5")
    again = build("applications/MobileNet", (32, 32, 3), 7, alpha=0.25, weights=str(tmp_path / "some.weights.h5"))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(model(images), again(images))
    assert Tapped(model, ["logits"]).specs["logits"].shape == (None, 7)
    assert np.array(model(100 * images)).min() < 0  # logits, no softmax


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("resnet21", (32, 32, 3), 10), ValueError, "did you mean .*resnet20"),
        (("applications/ResNet51", (32, 32, 3), 10), ValueError, "ResNet50"),
        (("resnet20", (32, 32), 10), ValueError, r"\(height, width, channels\)"),
        (("resnet20", (32, 0, 3), 10), ValueError, "positive"),
        (("resnet20", (32, 32, 3), 1), ValueError, "two classes"),
    ],
)
def test_what_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        build(*arguments)


def test_an_option_that_there_is_not():
    with pytest.raises(TypeError, match="widht"):
        build("mobilenet_v2", (32, 32, 3), 10, widht=0.5)
    with pytest.raises(TypeError, match="depth"):
        build("resnet8", (32, 32, 3), 10, depth=9)
