"""Preprocessing of pixels: statistics, probing of a function, and layers put in front of a network."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras.networks.preprocessing import PixelMap, PixelStatistics, normalized, prepend, probe
from kd_keras.networks.taps import Tapped
from tests.support.networks import SHAPE, convolutional

PIXELS = np.random.default_rng(0).integers(0, 256, (4, *SHAPE)).astype("float32")


def test_the_normalization_against_its_formula():
    mean, std = np.array([100.0, 120.0, 140.0]), np.array([20.0, 50.0, 70.0])
    inputs = keras.Input(SHAPE)
    network = keras.Model(inputs, normalized(inputs, PixelStatistics(tuple(mean), tuple(std))))
    np.testing.assert_allclose(network(PIXELS), (PIXELS - mean) / std, atol=1e-5)
    assert not network.variables


@pytest.mark.parametrize(
    "mean, std, message",
    [
        ((1.0, 2.0), (1.0, 1.0), "1 or 3 numbers"),
        ((1.0,), (1.0, 1.0, 1.0), "1 means and 3 deviations"),
        ((1.0,), (0.0,), "above 0"),
        ((float("nan"),), (1.0,), "finite"),
    ],
)
def test_invalid_statistics_are_rejected(mean, std, message):
    with pytest.raises(ValueError, match=message):
        PixelStatistics(mean, std).for_channels(3)


def test_probing_finds_order_scale_and_offset():
    probed = probe(lambda x: x[..., [1, 2, 0]] * np.array([0.5, 2.0, -1.0]) + np.array([3.0, 0.0, -7.0]))
    assert probed == PixelMap((1, 2, 0), (0.5, 2.0, -1.0), (3.0, 0.0, -7.0))
    assert probe(lambda x: x).is_identity and not probed.is_identity


@pytest.mark.parametrize("function", [np.square, lambda x: x.mean(-1, keepdims=True) + 0 * x])
def test_probing_rejects_a_function_that_is_not_affine_in_each_channel(function):
    with pytest.raises(ValueError, match="reorders, scales and shifts"):
        probe(function)


@pytest.mark.parametrize("nested", [False, True])
def test_a_network_with_preprocessing_in_front(nested, tmp_path):
    body = convolutional(normalized=True, dropout=0.5)
    shared = layers.Dense(5, name="shared")
    if nested:
        inputs = keras.Input(SHAPE)
        body = keras.Model(inputs, keras.ops.add(shared(shared(body(inputs))), 1.0), name="whole")
    pixel_map = PixelMap((2, 1, 0), (0.5, 0.25, 2.0), (1.0, -3.0, 0.0))
    expected = np.asarray(body(PIXELS[..., ::-1] * np.array([0.5, 0.25, 2.0]) + np.array([1.0, -3.0, 0.0])))
    names, paths = [layer.name for layer in body.layers[1:]], [variable.path for variable in body.variables]
    network = prepend(body, pixel_map)
    np.testing.assert_allclose(network(PIXELS), expected, rtol=1e-5, atol=1e-5)
    assert [layer.name for layer in network.layers if layer.name in names] == names
    assert [variable.path for variable in network.variables] == paths
    last = network.get_layer(names[-1]).output
    assert keras.Model(network.input, last)(PIXELS).shape == (4, 5), "layers return tensors of the new graph"
    np.testing.assert_allclose(Tapped(network, ["logits"])(PIXELS, False)[0], expected, rtol=1e-5, atol=1e-5)
    network.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(PIXELS), network(PIXELS))


def test_preprocessing_is_no_stage():
    body = convolutional()
    stages = [spec.layer for spec in Tapped(body, ["stages"]).specs["stages"]]
    network = prepend(body, PixelMap((2, 1, 0), (0.1,) * 3, (1.0,) * 3))
    assert [spec.layer for spec in Tapped(network, ["stages"]).specs["stages"]] == stages == ["relu1", "relu2"]


def test_a_network_with_two_inputs_is_rejected():
    images = [keras.Input(SHAPE), keras.Input(SHAPE)]
    with pytest.raises(ValueError, match="one input of 'two'"):
        prepend(keras.Model(images, layers.Add()(images), name="two"), PixelMap((0,), (1.0,), (1.0,)))
