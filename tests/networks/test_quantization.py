"""Quantization-aware copies: rounding against NumPy, the unquantized copy against the network, ranges, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from kd_keras import models
from kd_keras.networks.fake_quantization import (
    FakeQuantize,
    fake_quantized,
    fake_quantized_kernel,
    learned_step_quantized,
)
from kd_keras.networks.quantization import float_layers, quantization_aware
from kd_keras.networks.quantized_layers import QUANTIZED_KERNELS, unquantized
from kd_keras.networks.taps import Tapped
from tests.support.networks import values
from tests.support.quantization import every_kind, photographs, randomize

RANDOM = np.random.default_rng(0)
FAMILIES = ("vgg8", "wrn_16_1", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v1", "shufflenet_v2")


def rounded(values, low, high):
    """Jacob et al. 2018, equations 1 and 12, with the zero point rounded to a whole number; and what is in range."""
    values = values.astype("float64")
    scale = (high - low) / 255
    zero = np.clip(np.floor(-low / scale + 0.5), 0, 255)
    whole = np.clip(np.floor(values / scale + zero + 0.5), 0, 255)
    return scale * (whole - zero), (values >= -scale * zero) & (values <= scale * (255 - zero))


def gradient(function, values):
    variable = tf.Variable(values)
    with tf.GradientTape() as tape:
        outputs = function(variable)
        loss = tf.reduce_sum(tf.reshape(outputs, [-1]) * tf.range(1.0, tf.size(outputs, tf.float32) + 1))
    return tape.gradient(loss, variable).numpy()


@pytest.mark.parametrize("low, high", [(0.0, 6.0), (-1.7, 4.2), (-3.0, 0.0), (0.0, 255.0)])
def test_activations_and_their_gradient_are_those_of_numpy(low, high):
    values = RANDOM.uniform(low - 1, high + 1, 500).astype("float32")
    expected, is_inside = rounded(values, low, high)
    np.testing.assert_allclose(fake_quantized(values, low, high), expected, atol=1e-5 * (high - low))
    actual = gradient(lambda x: fake_quantized(x, low, high), values)
    np.testing.assert_array_equal(actual, np.where(is_inside, np.arange(1.0, 501), 0.0))


@pytest.mark.parametrize("axes, shape", [((0, 1, 2), (3, 3, 4, 5)), ((0, 1), (3, 3, 4, 2)), ((0,), (7, 3))])
def test_kernels_and_their_gradient_are_those_of_numpy(axes, shape):
    kernel = RANDOM.normal(size=shape).astype("float32") * RANDOM.uniform(0.01, 10, shape[-1:]).astype("float32")
    step = np.abs(kernel.astype("float64")).max(axes, keepdims=True) / 127
    np.testing.assert_allclose(
        fake_quantized_kernel(kernel, None, axes), step * np.round(kernel / step), rtol=1e-5, atol=1e-6
    )
    actual = gradient(lambda x: fake_quantized_kernel(x, None, axes), kernel)
    np.testing.assert_array_equal(actual, np.arange(1.0, kernel.size + 1).reshape(shape))


def test_kernels_of_four_bits_are_those_of_numpy():
    kernel = RANDOM.normal(size=(3, 3, 2, 5)).astype("float32")
    step = np.abs(kernel.astype("float64")).max((0, 1, 2)) / 7
    actual = fake_quantized_kernel(kernel, bits=4)
    np.testing.assert_allclose(actual, step * np.round(kernel / step), rtol=1e-5, atol=1e-6)


def test_a_kernel_that_is_tiny_compared_with_its_bias_keeps_the_bias_in_int32():
    kernel, bias = np.full((1, 1, 1, 2), 1e-7, "float32"), np.array([2.0, 0.0], "float32")
    step = np.array([1e-3 * 2.0, 1e-6]) / 127
    actual = fake_quantized_kernel(kernel, bias).numpy().ravel()
    np.testing.assert_allclose(actual, step * np.round(1e-7 / step), rtol=1e-5, atol=1e-12)


def test_a_range_follows_the_batches_in_training_only():
    quantizer = FakeQuantize()
    quantizer.build((None, 2))
    quantizer.set_range(-1.0, 2.0)
    batch = np.array([[-3.0, 8.0], [0.5, 1.0]], "float32")
    quantizer(batch)
    quantizer(batch, training=True, learn=False)
    assert quantizer.range == (-1.0, 2.0)
    quantizer(batch, training=True)
    np.testing.assert_allclose(quantizer.range, (0.99 * -1 + 0.01 * -3, 0.99 * 2 + 0.01 * 8), rtol=1e-6)
    before = quantizer.range
    quantizer(np.full((1, 2), np.nan, "float32"), training=True)
    quantizer.trainable = False
    quantizer(batch, training=True)
    assert quantizer.range == before


def test_a_range_contains_zero():
    quantizer = FakeQuantize()
    quantizer.build((None, 2))
    quantizer.set_range(2.0, 3.0)
    assert quantizer.range == (0.0, 3.0)
    quantizer(np.array([[5.0, 6.0]], "float32"), training=True)
    assert quantizer.range[0] == 0.0


@pytest.fixture(scope="module")
def network():
    return randomize(every_kind())


@pytest.fixture(scope="module")
def images():
    return photographs(24)


@pytest.fixture(scope="module")
def quantized(network, images):
    return quantization_aware(network, images)


def check_unquantized_copy(network, quantized, images):
    expected = network.predict(images.astype("float32"), verbose=0)
    with unquantized(quantized):
        actual = quantized.predict(images.astype("float32"), verbose=0)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_the_unquantized_copy_predicts_what_the_network_does(network, quantized, images):
    check_unquantized_copy(network, quantized, images)


def test_resnet8_predicts_the_same_unquantized_and_nearly_the_same_quantized(images):
    resnet = randomize(models.build("resnet8", (16, 16, 3), 10))
    copy = quantization_aware(resnet, images)
    check_unquantized_copy(resnet, copy, images)
    assert float_layers(copy) == []
    expected, actual = (net.predict(images.astype("float32"), verbose=0) for net in (resnet, copy))
    assert 0 < np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_unquantized_copy_of_every_family_predicts_the_same(family, images):
    network = randomize(models.build(family, (16, 16, 3), 10))
    copy = quantization_aware(network, images)
    check_unquantized_copy(network, copy, images)
    assert float_layers(copy) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50"])
def test_the_unquantized_copy_of_an_application_predicts_the_same(name):
    network = randomize(models.build(f"applications/{name}", (32, 32, 3), 10, weights=None))
    images = photographs(16, 32)
    copy = quantization_aware(network, images)
    check_unquantized_copy(network, copy, images)
    assert float_layers(copy) == []


def test_the_network_is_not_changed(network, images):
    before, names = values(network.variables), [layer.name for layer in network.layers]
    quantization_aware(network, images)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.variables), strict=True))
    assert names == [layer.name for layer in network.layers]


def test_ranges_start_from_the_images(network, quantized, images):
    relu = keras.Model(network.inputs, network.get_layer("stem_out").output)
    highest = relu.predict(images.astype("float32"), verbose=0).max()
    low, high = quantized.get_layer("stem_out_quantize").range
    assert low == 0.0 and high == pytest.approx(highest, rel=1e-5)
    assert quantized.get_layer("image_quantize").range == (0.0, 255.0)


def test_it_has_the_taps_of_the_network(network, quantized, images):
    taps = ["logits", "embedding", "stages"]
    pixels = images.astype("float32")
    expected, actual = (Tapped(net, taps)(pixels, training=False)[1] for net in (network, quantized))
    for tap in taps:
        for one, two in zip(keras.tree.flatten(expected[tap]), keras.tree.flatten(actual[tap]), strict=True):
            assert np.abs(one - two).mean() < 0.1 * np.abs(one).mean(), tap


def test_it_is_saved_loaded_and_trained_on(quantized, images, tmp_path):
    copy = keras.models.clone_model(quantized)
    copy.set_weights(quantized.get_weights())
    copy.compile(optimizer=keras.optimizers.SGD(1e-3), loss="mse")
    pixels, targets = images.astype("float32"), np.zeros((len(images), 5), "float32")
    copy.fit(pixels, targets, epochs=1, verbose=0)
    copy.save(tmp_path / "copy.keras")
    loaded = keras.saving.load_model(tmp_path / "copy.keras")
    expected = copy.predict(pixels, verbose=0)
    np.testing.assert_array_equal(loaded.predict(pixels, verbose=0), expected)
    before = loaded.evaluate(pixels, targets, verbose=0)
    loaded.fit(pixels, targets, epochs=3, verbose=0)
    assert loaded.evaluate(pixels, targets, verbose=0) < before
    ranges = [layer.range for layer in loaded.layers if isinstance(layer, FakeQuantize) and not layer.fixed]
    assert ranges != [layer.range for layer in copy.layers if isinstance(layer, FakeQuantize) and not layer.fixed]


def test_named_layers_stay_in_float(network, images):
    copy = quantization_aware(network, images, keep_float=["stem_conv", "logits"])
    assert float_layers(copy) == ["stem_conv_folded", "logits_linear"]
    assert not isinstance(copy.get_layer("logits_linear"), QUANTIZED_KERNELS)
    check_unquantized_copy(network, copy, images)
    with pytest.raises(ValueError, match=r"keep_float= names of convolutions .* but received 'stem'"):
        quantization_aware(network, images, keep_float=["stem"])


def test_unknown_layers_stay_in_float(images):
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, name="conv")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    network = randomize(keras.Model(inputs, layers.Dense(5)(layers.Flatten()(layers.ELU(name="elu")(x)))))
    copy = quantization_aware(network, images)
    assert float_layers(copy) == ["norm", "elu"]
    check_unquantized_copy(network, copy, images)


class Standardized(layers.Conv2D):
    """A convolution with weight standardization."""

    def convolution_op(self, inputs, kernel):
        mean, variance = ops.moments(kernel, (0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, (kernel - mean) / ops.sqrt(variance + 1e-5))


def squeezed(x):
    """The squeeze and excitation of keras.io's examples, with dense layers of 1x1 maps."""
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    factors = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    factors = layers.Dense(8, activation="sigmoid", name="up")(layers.Dense(4, activation="relu", name="down")(factors))
    return layers.Multiply()([x, factors])


def tokens(x):
    return layers.Reshape((7, 7, 4))(layers.Dense(4, "gelu", name="tokens")(layers.Reshape((49, 15))(x)))


def without_recipe(x):
    return layers.Conv2D(4, 3, activation=lambda t: t * ops.tanh(t), name="conv")(x)


@pytest.mark.parametrize(
    "body, in_float",
    [
        (squeezed, []),
        (layers.SeparableConv2D(4, 3, activation="swish", name="separable"), ["separable_linear"]),
        (lambda x: tokens(layers.Conv2D(15, 3, strides=2, name="conv")(x)), ["tokens_linear", "tokens"]),
        (layers.Conv2D(4, 3, activation="relu", activity_regularizer="l2", name="penalized"), ["penalized"]),
        (lambda x: layers.BatchNormalization()(Standardized(4, 3, name="standardized")(x)), ["standardized"]),
        (without_recipe, ["conv"]),
        (layers.Conv2DTranspose(4, 3, activation="relu", name="transposed"), ["transposed_linear"]),
    ],
    ids=["squeeze", "separable", "tokens", "penalized", "standardized", "own_activation", "transposed"],
)
def test_layers_of_users_predict_the_same(body, in_float, images):
    inputs = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(body(layers.Rescaling(1 / 255)(inputs)))
    network = randomize(keras.Model(inputs, layers.Dense(5, name="logits")(x)))
    copy = quantization_aware(network, images)
    assert float_layers(copy) == in_float
    check_unquantized_copy(network, copy, images)


@pytest.mark.parametrize("case", ["after half precision", "of each pixel", "of integers"])
def test_a_normalization_that_stays_a_layer_keeps_its_statistics(case, images):
    norm = layers.Normalization(axis=(1, 2, 3) if case == "of each pixel" else -1)
    inputs = keras.Input((16, 16, 3), dtype="uint8" if case == "of integers" else "float32")
    x = layers.Rescaling(1 / 255, dtype="float16")(inputs) if case == "after half precision" else inputs
    norm.adapt(images / 255.0 if case == "after half precision" else images.astype("float32"))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(norm(x)))
    network = keras.Model(inputs, layers.Dense(5, name="logits")(x))
    with unquantized(copy := quantization_aware(network, images)):
        actual = copy.predict(images.astype("float32"), verbose=0)
    expected = network.predict(images, verbose=0)
    np.testing.assert_allclose(actual, expected, atol=2e-3 * np.abs(expected).max())


def test_a_copy_that_predicts_something_else_is_refused(images):
    class Gain(layers.Layer):
        """It multiplies by a number that its configuration does not contain."""

        def __init__(self, gain=1.0, **options):
            super().__init__(**options)
            self.gain = gain

        def call(self, inputs):
            return inputs * self.gain

        def get_config(self):
            return {"name": self.name}

    inputs = keras.Input((16, 16, 3))
    x = layers.Flatten()(Gain(3.0)(layers.Conv2D(2, 3)(inputs)))
    with pytest.raises(ValueError, match="the same as long as nothing is rounded, but received a difference"):
        quantization_aware(keras.Model(inputs, layers.Dense(2)(x)), images)
    lambda_ = layers.Lambda(lambda x: x / 2, name="half")
    with pytest.raises(ValueError, match="layers that their configuration recreates, to quantize, but received 'half'"):
        quantization_aware(keras.Sequential([inputs, layers.Flatten(), lambda_, layers.Dense(2)]), images)


def test_a_network_of_mixed_precision_is_copied_in_float32(images):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        mixed = models.build("resnet8", (16, 16, 3), 10)
    finally:
        keras.config.set_dtype_policy("float32")
    copy = quantization_aware(mixed, images)
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    expected, actual = (net.predict(images.astype("float32"), verbose=0) for net in (mixed, copy))
    assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()


def test_what_cannot_be_quantized_is_refused(network, quantized, images):
    with pytest.raises(ValueError, match="float network to quantize, but received .* quantization-aware already"):
        quantization_aware(quantized, images)
    for wrong in (images / np.float32(255), images[:, :8], images[:0], images[0]):
        with pytest.raises(ValueError, match="Expected images= uint8 images"):
            quantization_aware(network, wrong)

    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="Functional or Sequential model to quantize"):
        quantization_aware(Subclassed(), images)
    broken = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)])
    broken.layers[0].kernel.assign(np.full(broken.layers[0].kernel.shape, np.inf))
    with pytest.raises(ValueError, match="Expected finite activations"):
        quantization_aware(broken, images)


def test_learned_steps_are_those_of_lsq():
    random = np.random.default_rng(0)
    step, zero = 0.07, 30.0
    values = random.uniform(-4, 18, (6, 9)).astype("float32")  # some are outside of -2.1 and 15.75
    upstream = random.normal(size=values.shape).astype("float32")
    scaled = values.astype("float64") / step
    inside = (scaled > -zero) & (scaled < 255 - zero)
    rounded = np.clip(np.round(scaled), -zero, 255 - zero)
    by_step = np.where(inside, rounded - scaled, rounded) / np.sqrt(9 * (255 - zero))
    variable, inputs = tf.Variable(step), tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = learned_step_quantized(inputs, variable, tf.constant(zero))
        loss = tf.reduce_sum(outputs * upstream)
    to_values, to_step = tape.gradient(loss, [inputs, variable])
    assert 0.05 < 1 - inside.mean() < 0.5
    np.testing.assert_allclose(outputs, step * rounded, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_values, upstream * inside, atol=1e-6)
    np.testing.assert_allclose(to_step, (upstream * by_step).sum(), rtol=1e-3)


def learned_quantizers(model):
    return [layer for layer in model.layers if isinstance(layer, FakeQuantize) and layer.fixed is None]


def test_ranges_learned_by_gradient_start_at_the_images_and_move(images):
    network = randomize(every_kind())
    copy = quantization_aware(network, images, ranges="gradient")
    quantizers, others = learned_quantizers(copy), learned_quantizers(quantization_aware(network, images))
    for layer, other in zip(quantizers, others, strict=True):
        step, zero = float(layer.step), float(layer.zero)
        assert zero == round(zero) and layer.range[0] == pytest.approx(-step * zero, rel=1e-6)
        np.testing.assert_allclose(layer.range, other.range, atol=0.51 * step)
    before = [layer.range for layer in quantizers]
    copy.compile(optimizer=keras.optimizers.SGD(0.01), loss="sparse_categorical_crossentropy")
    copy.fit(images.astype("float32"), np.arange(len(images)) % 5, epochs=1, verbose=0)
    moved = [layer.range != start for layer, start in zip(quantizers, before, strict=True)]
    assert np.mean(moved) > 0.9


def test_a_step_that_an_update_makes_negative_stays_positive_and_recovers():
    layer = FakeQuantize(by_gradient=True)
    layer.build((None, 4))
    layer.set_range(0.0, 255.0)
    layer.step.assign(-3.0)
    values = tf.constant([[0.1, 0.2, 40.0, 50.0]])
    with tf.GradientTape() as tape:
        outputs = layer(values, training=True)
        loss = tf.reduce_sum(outputs)
    assert layer.range == (0.0, 255 / 16)
    np.testing.assert_allclose(outputs[0], [0.125, 0.1875, 255 / 16, 255 / 16])
    expected = (np.round([1.6, 3.2]) - [1.6, 3.2]).sum() + 2 * 255
    np.testing.assert_allclose(tape.gradient(loss, layer.step.value), expected / np.sqrt(4 * 255), rtol=1e-5)


def test_an_unknown_way_to_learn_ranges_and_other_bits_are_refused(images):
    with pytest.raises(ValueError, match=r"ranges=...\) must be 'average' or 'gradient', but received 'lsq'"):
        quantization_aware(every_kind(), images, ranges="lsq")
    with pytest.raises(ValueError, match="Expected kernel_bits= 8 or 4, but received 2"):
        quantization_aware(every_kind(), images, kernel_bits=2)
