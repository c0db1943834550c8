"""The signal-to-noise ratio of layers in int8, against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import models
from kd_keras.evaluation.layer_noise import int8_layers, layer_noise, layer_noise_table
from kd_keras.networks.quantization import float_layers, quantization_aware
from tests.support.quantization import photographs

IMAGES = photographs(40, 8)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    stack = [layers.Flatten(name="flat"), layers.Dense(6, name="hidden"), layers.ReLU(name="relu")]
    return keras.Sequential([keras.Input((8, 8, 3), name="image"), *stack, layers.Dense(3, name="logits")])


def test_the_ratio_is_that_of_numpy(network):
    rows = {row.layer: row for row in layer_noise(quantization_aware(network, IMAGES), IMAGES, batch_size=16)}
    assert list(rows) == ["image", "hidden", "logits"]  # a ReLU belongs to the layer before it
    assert rows["image"].decibels == np.inf
    kernel = np.array(network.get_layer("hidden").kernel, "float64")
    pixels = IMAGES.reshape(len(IMAGES), -1).astype("float64")
    exact = np.maximum(pixels @ kernel, 0)
    step = np.abs(kernel).max(0) / 127
    scale = exact.max() / 255
    rounded = scale * np.clip(np.round(pixels @ (step * np.round(kernel / step)) / scale), 0, 255)
    expected = 10 * np.log10(np.square(exact).sum() / np.square(exact - rounded).sum())
    assert rows["hidden"].decibels == pytest.approx(expected, abs=0.02)
    assert rows["hidden"][1:3] == pytest.approx((0.0, exact.max()), rel=1e-5)


def test_a_range_that_is_too_wide_shows_as_noise(network):
    copy = quantization_aware(network, IMAGES)
    before = {row.layer: row.decibels for row in layer_noise(copy, IMAGES)}
    quantizer = copy.get_layer("relu_quantize")
    quantizer.set_range(0.0, 16 * quantizer.range[1])
    after = {row.layer: row.decibels for row in layer_noise(copy, IMAGES)}
    assert after["hidden"] < before["hidden"] - 15 and after["image"] == before["image"]


def test_the_table_has_a_row_for_each_layer(network):
    table = layer_noise_table(layer_noise(quantization_aware(network, IMAGES), IMAGES)).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| image", "| hidden", "| logits"]


def test_a_float_model_is_refused(network):
    with pytest.raises(ValueError, match="Expected a quantization-aware model, but received .* a float model"):
        layer_noise(network, IMAGES)


def test_the_findings_are_the_rows_with_noise(network):
    copy = quantization_aware(network, IMAGES)
    rows = layer_noise(copy, IMAGES)
    findings = dict(int8_layers(copy, IMAGES))
    assert list(findings) == ["int8_hidden", "int8_logits"]
    np.testing.assert_array_equal(findings["int8_hidden"], rows[1][3:] + rows[1][1:3])


def test_its_names_of_convolutions_are_those_that_can_stay_in_float():
    network = models.build("resnet8", (8, 8, 3), 4)
    rows = [row.layer for row in layer_noise(quantization_aware(network, IMAGES), IMAGES)]
    kernels = [name for name in rows if name == "logits" or name.endswith("conv")]
    assert len(kernels) == 10 and len(set(rows)) == len(rows)
    copy = quantization_aware(network, IMAGES, keep_float=kernels[3:5])
    assert float_layers(copy) == [f"{name}_folded" for name in kernels[3:5]]


def test_an_activation_with_a_range_of_its_own_has_a_name_of_its_own():
    inner = layers.Conv2D(4, 1, activation="hard_sigmoid", name="gate")
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Multiply(name="gated")([inner(inputs), layers.Conv2D(4, 1, name="value")(inputs)])
    network = keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)))
    rows = [row.layer for row in layer_noise(quantization_aware(network, IMAGES), IMAGES)]
    assert sorted(rows) == sorted(["image", "gate", "gate_activation", "value", "gated", "logits"])
