"""What the first convolution of every network sees for one photograph with pixels from 0 to 255."""

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras.models import applications, build, multi_exit, takes_normalization
from kd_keras.networks.preprocessing import PixelStatistics
from kd_keras.networks.taps import Tapped
from kd_keras.private_api import sub_layers
from tests.models.test_models import SMALLEST

IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# Networks with preprocessing inside: what their own documentation and source say that it does.
INSIDE = {
    "ConvNeXt": lambda x: (x - 255 * IMAGENET[0]) / (255 * IMAGENET[1]),
    "EfficientNetB": lambda x: x / 255,  # and, with weights, the statistics that the weights were trained with
    "EfficientNetV2B": lambda x: (x / 255 - IMAGENET[0]) / IMAGENET[1],
    "EfficientNetV2": lambda x: x / 128 - 1,
    "MobileNetV3": lambda x: x / 127.5 - 1,
}
# The kind of all others, read off the documentation of keras.applications.
CAFFE = ("ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19")
TORCH = ("DenseNet121", "DenseNet169", "DenseNet201")


def photograph(size=96):
    """An image `(1, size, size, 3)`, uint8, with gradients, an edge and noise, whose channels differ."""
    across, down = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size))
    image = np.stack([255 * across, 200 * down**2 + 40, 255 * (across + down > 1)], axis=-1)
    noisy = image + np.random.default_rng(0).normal(scale=20, size=image.shape)
    return np.clip(noisy, 0, 255).astype("uint8")[None]


def first_convolution_input(network):
    """What the first convolution reads, before padding."""
    makers = {id(layer.output): layer for layer in network.layers if not isinstance(layer, layers.InputLayer)}
    first = next(layer for layer in network.layers if any(isinstance(l, layers.Conv2D) for l in sub_layers(layer)))
    tensor = first.input
    while isinstance(makers.get(id(tensor)), layers.ZeroPadding2D):
        tensor = makers[id(tensor)].input
    return np.asarray(keras.Model(network.input, tensor)(photograph().astype("float32"), training=False), "float64")


def expected_input(name):
    pixels = photograph().astype("float64")
    for prefix in sorted(INSIDE, key=len, reverse=True):
        if name.startswith(prefix):
            return INSIDE[prefix](pixels)
    if name in CAFFE:
        return pixels[..., ::-1] - np.array([103.939, 116.779, 123.68])
    return (pixels / 255 - IMAGENET[0]) / IMAGENET[1] if name in TORCH else pixels / 127.5 - 1


def test_the_first_convolution_of_every_application_sees_what_its_weights_expect(application):
    name, network = application
    seen, expected = first_convolution_input(network), expected_input(name)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-5 * np.ptp(expected))
    if not name.startswith(tuple(INSIDE)):
        by_keras = applications.preprocess_input(name)(photograph().astype("float32"))
        np.testing.assert_allclose(seen, by_keras, rtol=0, atol=1e-5 * np.ptp(expected))


def test_the_layers_of_an_application_keep_their_paths_and_weights():
    keras.utils.clear_session()  # both builds number their unnamed layers from the same start
    stock = keras.applications.MobileNet(
        weights=None, input_shape=(32, 32, 3), classes=7, alpha=0.25, classifier_activation=None
    )
    keras.utils.clear_session()
    network = build("applications/MobileNet", (32, 32, 3), 7, alpha=0.25)
    assert [layer.name for layer in network.layers[2:]] == [layer.name for layer in stock.layers[1:]]
    assert [v.path for v in network.variables] == [v.path for v in stock.variables]
    network.set_weights(stock.get_weights())
    pixels = photograph(32).astype("float32")
    expected = stock(keras.applications.mobilenet.preprocess_input(pixels.copy()))
    np.testing.assert_allclose(network(pixels), expected, rtol=1e-5, atol=1e-6)


def test_the_file_of_an_application_needs_nothing_but_keras(tmp_path):
    network = build("applications/VGG16", (32, 32, 3), 7)
    network.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert "kd_keras" not in config
    modules = {layer["module"].split(".")[0] for layer in json.loads(config)["config"]["layers"]}
    assert modules == {"keras"}
    pixels = photograph(32).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(pixels), network(pixels))


@pytest.mark.parametrize("name", SMALLEST)
def test_a_zoo_network_with_fitted_statistics_sees_mean_0_and_deviation_1(name):
    pixels = photograph(32).astype("float32")
    fitted = PixelStatistics(*(tuple(stat((0, 1, 2)).tolist()) for stat in (pixels.mean, pixels.std)))
    network = build(name, (32, 32, 3), 10, normalization=fitted)
    seen = np.asarray(Tapped(network, ["normalization"])(pixels, training=False)[1]["normalization"])
    np.testing.assert_allclose(seen.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std((0, 1, 2)), 1, atol=1e-5)
    assert not network.get_layer("normalization").variables
    default = np.asarray(build(name, (32, 32, 3), 10).get_layer("normalization")(pixels))
    np.testing.assert_allclose(default, (pixels - 127.5) / 63.75, atol=1e-5)


def test_pixels_stay_in_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    for name, layer in (("resnet8", "normalization"), ("applications/MobileNet", "preprocessing")):
        network = build(name, (32, 32, 3), 10)
        assert network.get_layer(layer).compute_dtype == "float32" == network.get_layer(layer).output.dtype
        convolution = next(layer for layer in network.layers if isinstance(layer, layers.Conv2D))
        assert convolution.compute_dtype == "bfloat16"


def test_multi_exit_networks_take_the_normalization_of_their_zoo_network():
    network = build("multi_exit/resnet8", (16, 16, 3), 4, PixelStatistics((100.0,), (50.0,)))
    assert network.get_layer("normalization").get_config()["mean"] == [100.0] * 3
    assert multi_exit(build("resnet8", (16, 16, 1), 4)).get_layer("normalization").get_config()["mean"] == [127.5]


def test_which_names_take_a_normalization():
    assert all(map(takes_normalization, ("resnet20", "mlp", "multi_exit/vgg8")))
    names = ("applications/ResNet50", "multi_exit/applications/ResNet50", "hub/ResNetImageClassifier", "resnet21")
    assert not any(map(takes_normalization, names))


@pytest.mark.parametrize("name", ["applications/MobileNet", "multi_exit/applications/MobileNet", "hub/anything"])
def test_a_network_with_its_own_preprocessing_takes_no_normalization(name):
    with pytest.raises(ValueError, match="starts with the preprocessing that its weights expect"):
        build(name, (32, 32, 3), 10, PixelStatistics((127.5,), (63.75,)))


def test_preprocessing_cannot_be_left_out():
    with pytest.raises(ValueError, match="include_preprocessing=False"):
        build("applications/MobileNetV3Small", (32, 32, 3), 10, include_preprocessing=False)


def test_other_channels_than_three_are_scaled_alike():
    gray = applications.expected_pixels("ResNet50").for_channels(1)
    assert gray.order == (0,) and gray.scale == (1.0,)
    assert gray.offset == pytest.approx([-(103.939 + 116.779 + 123.68) / 3])
    assert build("applications/MobileNet", (32, 32, 1), 10, alpha=0.25).output_shape == (None, 10)
