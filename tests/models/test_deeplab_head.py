"""The DeepLabV3+ head: its branches by definition, its rates on small maps, its gradients, its files, its training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import models
from kd_keras.export.runtimes import load_outputs
from kd_keras.export.writing import convert_to_litert
from kd_keras.models.deeplab_head import deeplab_features, fitting_rates
from kd_keras.networks.taps import Tapped
from kd_keras.segmentation import SegmentationLoss
from kd_keras.tasks.segmentation.export import export_class_maps
from tests.support.reference import random, resized

SHAPE = (24, 40, 3)
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")


def segmenter(name="resnet8", shape=SHAPE, classes=3, **options):
    keras.utils.set_random_seed(0)
    return models.build(f"segmenter/{name}", shape, classes, **{"head": "deeplab_v3_plus", "width": 8, **options})


@pytest.fixture(scope="module")
def network():
    network = segmenter()
    network.get_layer("logits_map").kernel.assign(
        random(1, 1, 8, 3)
    )  # small at first, so that classes are nearly equal
    return network


@pytest.mark.parametrize(
    "name, shape, options, fine, rates",
    [
        ("resnet8", (24, 40, 3), {}, (24, 40), [1, 2, 3]),
        ("resnet20", (30, 23, 1), {"levels": (1, 2)}, (15, 12), [1, 2, 3]),
        ("mobilenet_v2", (41, 72, 3), {"backbone": {"width": 0.5}}, (11, 18), [1, 2]),
        ("applications/MobileNetV3Small", (64, 96, 3), {}, (8, 12), [1]),
        ("resnet18", (50, 70, 3), {"levels": (3, 3), "rates": (2, 8)}, (7, 9), [2, 8]),
    ],
)
def test_any_network_with_stages_is_a_backbone(name, shape, options, fine, rates):
    network = segmenter(name, shape, **options)
    specs = Tapped(network, ["logits", "logits_map", "segmentation_features"]).specs
    assert specs["logits"].shape == network.output_shape == (None, *shape[:2], 3)
    assert specs["logits_map"].shape == (None, *fine, 3) and specs["segmentation_features"].shape == (None, *fine, 8)
    dilated = [layer for layer in network.layers if layer.name.endswith("_depthwise") and "aspp" in layer.name]
    assert [layer.dilation_rate for layer in dilated] == [(rate, rate) for rate in rates]
    momenta = {
        layer.momentum for layer in network.layers if layer.name.startswith(("aspp", "decoder")) and "bn" in layer.name
    }
    assert momenta == {0.9}


@pytest.mark.parametrize(
    "size, rates",
    [((33, 33), [6, 12, 18]), ((65, 129), [6, 12, 18]), ((12, 16), [2, 4, 7]), ((3, 5), [1, 2]), ((1, 1), [])],
)
def test_rates_keep_the_published_proportion_and_read_the_map(size, rates):
    assert fitting_rates(*size) == rates


def depthwise(x, kernel, rate):
    """A 3x3 convolution of each channel whose taps are `rate` apart, with zeros around the map."""
    padded = np.pad(x, [(0, 0), (rate, rate), (rate, rate), (0, 0)])
    height, width = x.shape[1:3]
    return sum(
        padded[:, row * rate : row * rate + height, column * rate : column * rate + width] * kernel[row, column, :, 0]
        for row in range(3)
        for column in range(3)
    )


def test_features_by_their_definition():
    fine, coarse = keras.Input((9, 7, 4)), keras.Input((5, 4, 6))
    head = keras.Model([fine, coarse], deeplab_features(fine, coarse, 5, rates=(1, 3)))
    for number, weight in enumerate(head.weights):
        is_scale = weight.path.endswith(("gamma", "moving_variance"))
        weight.assign(random(*weight.shape, seed=number, scale=0.3) + (2.0 if is_scale else 0.0))
    layers = {layer.name: layer for layer in head.layers}

    def normalized(x, name):
        bn = layers[f"{name}_bn"]
        gamma, beta, mean, variance = (np.asarray(w, "float64") for w in bn.weights)
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)

    def point(x, name):
        return normalized(x @ np.asarray(layers[f"{name}_conv"].kernel, "float64")[0, 0], name)

    def separable(x, name, rate=1):
        kernel = np.asarray(layers[f"{name}_depthwise"].kernel, "float64")
        return point(normalized(depthwise(x, kernel, rate), f"{name}_depthwise"), name)

    values = [random(2, *x.shape[1:], seed=number) for number, x in enumerate((fine, coarse), start=90)]
    x, y = (value.astype("float64") for value in values)
    mean = np.broadcast_to(point(y.mean((1, 2), keepdims=True), "aspp_image"), (2, 5, 4, 5))
    branches = [point(y, "aspp_point"), separable(y, "aspp_rate1", 1), separable(y, "aspp_rate3", 3), mean]
    aspp = resized(point(np.concatenate(branches, -1), "aspp"), (9, 7))
    joined = np.concatenate([aspp, point(x, "decoder_fine")], -1)
    expected = separable(separable(joined, "decoder1"), "decoder2")
    assert layers["decoder_fine_conv"].filters == 1 and (expected > 0).mean() > 0.1
    np.testing.assert_allclose(head(values), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_both_maps_and_every_weight():
    fine, coarse = keras.Input((8, 12, 4)), keras.Input((4, 6, 6))
    head = keras.Model([fine, coarse], deeplab_features(fine, coarse, 8, dropout=0.1))
    maps = [tf.constant(random(3, *x.shape[1:], seed=number)) for number, x in enumerate((fine, coarse))]
    weights = [weight.value for weight in head.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        loss = tf.reduce_sum(head(maps, training=True) * random(3, 8, 12, 8, seed=5))
    for gradient in tape.gradient(loss, [*maps, *weights]):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_a_saved_network_predicts_the_same(network, tmp_path):
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    expected = network(IMAGES, training=False)
    np.testing.assert_array_equal(loaded(IMAGES, training=False), expected)
    np.testing.assert_array_equal(network(IMAGES), expected)  # no layer changes the default of later layers


def test_exports_equal_the_network(network, tmp_path):
    sample = np.round(IMAGES).astype("uint8")
    export = export_class_maps(network, tmp_path / "student", "saved_model", sample=sample)
    assert export.agreement == 1 and export.parameters == network.count_params()

    def logits(images):
        return {"logits": network(tf.cast(images, tf.float32), training=False)}

    (tmp_path / "student.tflite").write_bytes(convert_to_litert(logits, network, SHAPE, "float32", None))
    run = load_outputs(tmp_path / "student.tflite", ["logits"])
    for image in sample:
        expected = np.asarray(network(image[None].astype("float32")))
        np.testing.assert_allclose(run(image[None])["logits"], expected, atol=1e-4 * np.abs(expected).max())


def test_it_fits_a_few_images():
    random_state = np.random.default_rng(1)
    masks = random_state.integers(0, 3, (4, 2, 3)).repeat(8, 1).repeat(8, 2).astype("int32")
    colors = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]], "float32")
    images = colors[masks] + random_state.normal(0, 20, (4, 16, 24, 3)).astype("float32")
    masks[:, 0] = -1
    network = segmenter(shape=(16, 24, 3))
    network.compile(keras.optimizers.Adam(0.01), SegmentationLoss(), jit_compile=False)
    network.fit(images, masks, batch_size=4, epochs=25, verbose=0)
    is_right = np.asarray(network(images)).argmax(-1) == masks
    assert is_right[masks >= 0].mean() > 0.9


@pytest.mark.parametrize(
    "options, error, expected",
    [
        ({"rates": (1, 10)}, ValueError, r"from 1 to 9 for a coarse map of 6 x 10.*\(1, 10\).*leave rates out"),
        ({"rates": (2, 2)}, ValueError, "different atrous rates"),
        ({"rates": (0,)}, ValueError, "different atrous rates"),
        ({"rates": 6}, TypeError, "rates"),
        ({"head": "deeplab"}, ValueError, "lr_aspp.*deeplab_v3_plus.*'deeplab'"),
        ({"head": "lr_aspp", "rates": (1,)}, ValueError, "deeplab_v3_plus.*rates"),
    ],
)
def test_wrong_arguments_raise(options, error, expected):
    with pytest.raises(error, match=f"(?i){expected}"):
        segmenter(**options)
