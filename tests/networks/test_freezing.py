"""A frozen copy has the predictions and the taps of its network in inference, in any precision."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller, Teacher, frozen, models
from kd_keras.methods import KD, OFD, FitNet
from kd_keras.networks.preprocessing import PixelStatistics, normalized
from kd_keras.networks.taps import Tapped
from kd_keras.private_api import sub_layers
from tests.support.networks import CLASSES, SHAPE, compiled, convolutional, examples, values

ZOO = ("resnet8", "wrn_16_1", "vgg8", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v1")
ZOO += ("shufflenet_v2", "multi_exit/resnet8")
TAPS = {"resnet8": ("logits", "embedding", "stages", "stages:pre"), "multi_exit/resnet8": ("logits",)}
X, Y = examples(16)


def trained(network, seed=0):
    """The network with BatchNorm statistics and scales as training may leave them."""
    random = np.random.default_rng(seed)
    for layer in sub_layers(network):
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                positive = variable.name in ("gamma", "moving_variance")
                drawn = random.uniform(0.3, 2, variable.shape) if positive else random.normal(0, 0.3, variable.shape)
                variable.assign(drawn)
    return network


def norms(network):
    return [layer for layer in sub_layers(network) if isinstance(layer, layers.BatchNormalization)]


def in_float64(network):
    """The same network in float64."""

    def copied(layer):
        is_layer = isinstance(layer, layers.Layer)
        return type(layer).from_config(layer.get_config() | {"dtype": "float64"}) if is_layer else layer

    copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy


def error(network, copy, taps=("logits",), x=X):
    """The largest difference of all taps, each relative to the tap's standard deviation."""
    before, after = (Tapped(model, taps)(x, training=False)[1] for model in (network, copy))
    pairs = zip(*(keras.tree.flatten([side[tap] for tap in taps]) for side in (before, after)), strict=True)
    return max(np.abs(np.array(b, "float64") - np.array(a, "float64")).max() / np.array(a).std() for a, b in pairs)


def pixels(count=16, shape=SHAPE):
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype("float32")


@pytest.mark.parametrize("name", ZOO)
def test_frozen_zoo_networks_have_the_same_predictions_and_taps(name):
    network, taps = trained(models.build(name, (32, 32, 3), CLASSES)), TAPS.get(name, TAPS["resnet8"])
    images = pixels(4, shape=(32, 32, 3))
    before = values(network.variables)
    copy, truth = frozen(network), in_float64(network)
    # Folding rounds at other places, but hardly more than the network itself does, whose own rounding depends on the
    # processor: that of mobilenet_v3_small is 1.1e-4 on some.
    assert error(truth, copy, taps, images) < 3 * error(truth, network, taps, images) < 6e-4
    assert Tapped(copy, taps).specs == Tapped(network, taps).specs
    assert len(norms(copy)) < len(norms(network)) and not copy.trainable_variables
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network.variables), strict=True))
    assert error(network, frozen(network, "bfloat16"), ("logits",), images) < 0.2


def test_folded_weights_against_the_formula():
    inputs = keras.Input((5, 5, 4))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(inputs)
    x = layers.BatchNormalization(name="bn1", epsilon=0.02)(x)
    x = layers.Conv2D(6, 1, groups=2, use_bias=False, name="grouped")(x)
    x = layers.BatchNormalization(name="bn2", scale=False)(x)
    x = layers.Dense(3, name="dense")(layers.Flatten()(layers.ReLU()(x)))
    network = trained(keras.Model(inputs, layers.BatchNormalization(name="bn3", center=False)(x)))
    images = examples(8, shape=(5, 5, 4))[0]
    for layer in network.layers:  # biases other than zero
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    copy = frozen(network)
    assert not norms(copy)
    np.testing.assert_allclose(copy(images), network(images, training=False), rtol=1e-5, atol=1e-5)
    kernel, bias = (np.array(weight, "float64") for weight in network.get_layer("dense").get_weights())
    norm = network.get_layer("bn3")
    scale = np.array(norm.gamma) / np.sqrt(np.array(norm.moving_variance) + norm.epsilon)
    folded = copy.get_layer("dense_folded")
    np.testing.assert_allclose(folded.kernel, kernel * scale, rtol=1e-6)
    np.testing.assert_allclose(folded.bias, (bias - np.array(norm.moving_mean)) * scale, rtol=1e-5)


def activated(inputs):
    return layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(inputs))


def read_twice(inputs):
    x = layers.Conv2D(4, 3)(inputs)
    return layers.Add()([x, layers.BatchNormalization()(x)])


def shared_convolution(inputs):
    convolution = layers.Conv2D(3, 3, padding="same")
    return layers.BatchNormalization()(convolution(layers.BatchNormalization()(convolution(inputs))))


def shared_norm(inputs):
    norm = layers.BatchNormalization()
    return norm(layers.Conv2D(3, 3)(norm(layers.Conv2D(3, 3)(inputs))))


def activated_and_regularized(inputs):
    activated = layers.Conv2D(4, 3, activation="relu", activity_regularizer="l2")(inputs)
    return layers.BatchNormalization()(activated)


class Doubled(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def of_another_kind(inputs):
    return Doubled()(layers.Conv2D(4, 3)(inputs))


def over_rows(inputs):
    return layers.BatchNormalization(axis=1)(layers.Conv2D(8, 3, padding="same")(inputs))


BODIES = [activated, activated_and_regularized, read_twice, shared_convolution, shared_norm, of_another_kind, over_rows]


@pytest.mark.parametrize("body", BODIES)
def test_batch_norms_that_cannot_be_folded_stay(body):
    inputs = keras.Input(SHAPE)
    network = trained(keras.Model(inputs, body(inputs)))
    copy = frozen(network)
    assert len(norms(copy)) == len(norms(network))
    np.testing.assert_allclose(copy(X), network(X, training=False), rtol=1e-5, atol=1e-5)


def test_an_output_before_its_batch_norm_is_unchanged():
    inputs = keras.Input(SHAPE)
    raw = layers.Conv2D(4, 3)(inputs)
    network = trained(keras.Model(inputs, {"raw": raw, "normed": layers.BatchNormalization()(raw)}))
    copy = frozen(network)
    for name, value in network(X, training=False).items():
        np.testing.assert_allclose(copy(X)[name], value, rtol=1e-5, atol=1e-5)


def nested():
    backbone, inputs = convolutional(normalized=True, name="body"), keras.Input(SHAPE)
    return trained(keras.Model(inputs, layers.Dense(CLASSES, activation="softmax", name="classify")(backbone(inputs))))


def test_nested_models_keep_their_paths():
    network = nested()
    copy = frozen(network)
    assert not norms(copy) and copy.get_layer("body").get_layer("bn2") is not None
    taps = ("logits", "stages", "body/bn1", "body/relu2")
    assert error(network, copy, taps) < 1e-5
    assert Tapped(copy, taps).specs == Tapped(network, taps).specs
    with pytest.raises(ValueError, match="no tap 'body/conv1'"):
        Tapped(copy, ["body/conv1"])


@pytest.mark.parametrize("precision, bound", [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_between_preprocessing_and_classifier(precision, bound):
    inputs = keras.Input(SHAPE)
    scaled = layers.Rescaling(1 / 127.5, offset=-1, name="prepare")(inputs)
    whole = layers.Softmax(name="probabilities")(convolutional(width=32, normalized=True)(scaled))
    network = trained(keras.Model(inputs, whole))
    copy = frozen(network, precision)
    images = pixels()
    assert 0 < error(network, copy, ("logits",), images) < bound
    inner = copy.get_layer("net")
    in_float32 = [copy.get_layer("prepare"), inner.get_layer("logits"), copy.get_layer("probabilities")]
    assert {layer.compute_dtype for layer in in_float32} == {"float32"} == {str(v.dtype) for v in in_float32[1].weights}
    half = [inner.get_layer(name) for name in ("conv1_folded", "bn1", "relu1", "conv2_folded", "pool")]
    assert {layer.compute_dtype for layer in half} == {precision}
    assert {variable.dtype for layer in half for variable in layer.weights} == {precision}
    assert keras.backend.standardize_dtype(copy(images).dtype) == "float32"


def test_statistics_out_of_the_range_of_float16():
    inputs = keras.Input(SHAPE)
    norm = layers.BatchNormalization()
    network = keras.Model(
        inputs,
        layers.Dense(CLASSES)(
            layers.GlobalAveragePooling2D()(
                layers.Conv2D(8, 3)(layers.ReLU()(norm(layers.MaxPooling2D()(layers.Conv2D(4, 3)(inputs)))))
            )
        ),
    )
    norm.moving_variance.assign(np.full(4, 1e6))
    norm.gamma.assign(np.full(4, 1e3))
    assert error(network, frozen(network, "float16")) < 0.01


def test_a_frozen_network_does_not_follow_a_network_that_continues_to_train():
    network = trained(convolutional(normalized=True))
    before, copy = np.array(network(X, training=False)), frozen(network)
    network.get_layer("conv1").kernel.assign_add(np.ones((3, 3, 3, 4)))
    np.testing.assert_allclose(copy(X), before, rtol=1e-5, atol=1e-5)


def test_the_copy_of_a_compiled_network_is_not_compiled():
    network, inner = trained(nested()), nested().get_layer("body")
    for model in (network, network.get_layer("body"), inner):
        model.compile("adam", lambda y_true, y_pred: 0.0)
    copy = frozen(network)
    assert not copy.compiled and not copy.get_layer("body").compiled


def test_nested_sequential_models():
    body = keras.Sequential([layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="bn")], name="body")
    network = keras.Sequential([keras.Input(SHAPE), body, layers.Flatten(), layers.Dense(CLASSES, name="classify")])
    copy = frozen(trained(network))
    assert not norms(copy)
    np.testing.assert_allclose(copy(X), network(X, training=False), rtol=1e-5, atol=1e-5)
    assert Tapped(copy, ["body/bn"]).specs == Tapped(network, ["body/bn"]).specs


def test_an_adapted_normalization_is_copied():
    adapted = layers.Normalization()
    adapted.adapt(5 * X + 3)
    inputs = keras.Input(SHAPE)
    network = trained(keras.Model(inputs, convolutional(normalized=True)(adapted(inputs))))
    np.testing.assert_allclose(frozen(network)(X), network(X, training=False), rtol=1e-4, atol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Halved(keras.Model):
    """A graph of layers that overrides `call`."""

    def call(self, inputs, training=None):
        return 0.5 * super().call(inputs, training=training)


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A layer that contains a layer with its own dtype policy."""

    def build(self, shape):
        self.convolution = layers.Conv2D(shape[-1], 3, padding="same")
        self.convolution.build(shape)

    def call(self, inputs):
        return inputs + self.convolution(inputs)


def within(inputs):
    a, b = keras.Input(SHAPE), layers.Conv2D(4, 3, padding="same")
    return layers.BatchNormalization()(Halved(a, b(a), name="halved")(inputs))


def block(inputs):
    return Block()(layers.Conv2D(4, 3)(inputs))


def wrapped(inputs):
    return layers.TimeDistributed(layers.Conv1D(4, 3))(layers.Conv2D(4, 3)(inputs))


@pytest.mark.parametrize("body", [within, block, wrapped])
@pytest.mark.parametrize("precision, bound", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_layers_that_contain_layers(body, precision, bound):
    inputs = keras.Input(SHAPE)
    x = layers.ReLU()(layers.Conv2D(4, 3)(body(inputs)))
    network = trained(keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x))))
    assert error(network, frozen(network, precision)) < bound


def valid(x):
    return layers.Flatten()(layers.Conv2D(4, 3, use_bias=False, name="first")(x))


def pointwise(x):
    return layers.Flatten()(layers.Conv2D(4, 1, strides=2, padding="same", activation="relu", name="first")(x))


def with_norm(x):
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, use_bias=False, name="first")(x))
    return layers.Flatten()(layers.ReLU()(x))


def flattened(x):
    return layers.Dense(6, activation="relu", name="first")(layers.Flatten()(x))


def padded(x):
    return layers.Flatten()(layers.Conv2D(4, 3, padding="same", name="first")(x))


def depthwise(x):
    return layers.Flatten()(layers.DepthwiseConv2D(3, name="first")(x))


def read_by_two(x):
    return layers.Flatten()(layers.Concatenate()([layers.Conv2D(4, 1, name="first")(x), x]))


COLORS = PixelStatistics((120.0, 110.0, 100.0), (60.0, 50.0, 40.0))
SCALED = PixelStatistics((0.0,), (255.0,))
FOLDING = [(valid, COLORS), (pointwise, COLORS), (with_norm, COLORS), (flattened, COLORS), (padded, SCALED)]


def normalized_network(body, statistics):
    inputs = keras.Input(SHAPE)
    return trained(keras.Model(inputs, layers.Dense(CLASSES, name="logits")(body(normalized(inputs, statistics)))))


def normalizations(network):
    return [layer for layer in network.layers if isinstance(layer, layers.Normalization)]


@pytest.mark.parametrize("body, statistics", FOLDING)
def test_the_normalization_of_the_image_is_folded_if_that_is_exact(body, statistics):
    network, images = normalized_network(body, statistics), pixels()
    copy, truth = frozen(network), in_float64(network)
    assert not normalizations(copy) and copy.get_layer("normalization_folded").output.shape == (None, *SHAPE)
    assert error(truth, copy, x=images) < 3e-6 > error(truth, network, x=images)
    std = np.array(statistics.for_channels(3).std)
    name = "first_folded" if body is with_norm else "first"
    kernel, folded = (np.array(model.get_layer(layer).kernel) for model, layer in ((network, "first"), (copy, name)))
    if body is not with_norm:
        times = np.tile(std, kernel.shape[0] // 3) if body is flattened else std
        np.testing.assert_allclose(folded * times[:, None], kernel, rtol=1e-5)


@pytest.mark.parametrize("body, statistics", [(padded, COLORS), (depthwise, COLORS), (read_by_two, COLORS)])
def test_the_normalization_of_the_image_stays_otherwise(body, statistics):
    network, images = normalized_network(body, statistics), pixels()
    copy = frozen(network)
    assert len(normalizations(copy)) == 1
    np.testing.assert_allclose(copy(images), network(images, training=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision, bound", [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_normalizes_pixels_in_float32(precision, bound):
    network, images = normalized_network(valid, COLORS), pixels()
    copy = frozen(network, precision)
    assert [layer.compute_dtype for layer in normalizations(copy)] == ["float32"]
    assert copy.get_layer("first").compute_dtype == precision
    seen = Tapped(copy, ["normalization"])(images, False)[1]["normalization"]
    np.testing.assert_allclose(seen, (images - np.array(COLORS.mean)) / np.array(COLORS.std), atol=1e-5)
    assert 0 < error(network, copy, x=images) < bound


@pytest.mark.parametrize("name", ["mlp", "shufflenet_v2"])
def test_zoo_networks_whose_normalization_is_folded(name):
    network, images = trained(models.build(name, (32, 32, 3), CLASSES)), pixels(4, shape=(32, 32, 3))
    copy, truth = frozen(network), in_float64(network)
    assert not normalizations(copy)
    assert error(truth, copy, x=images) < max(3 * error(truth, network, x=images), 3e-6)


def test_every_output_is_float32():
    inputs = keras.Input(SHAPE)
    x = layers.Flatten()(layers.Conv2D(4, 3)(inputs))
    outputs = {"one": layers.Dense(3, activation="softmax")(x), "two": layers.BatchNormalization()(layers.Dense(2)(x))}
    outputs["mean"] = layers.Average()([layers.Dense(2)(x), layers.Dense(2)(x)])
    network = trained(keras.Model(inputs, outputs))
    predictions = frozen(network, "bfloat16")(X)
    assert {keras.backend.standardize_dtype(value.dtype) for value in predictions.values()} == {"float32"}
    for name, value in network(X, training=False).items():
        np.testing.assert_allclose(predictions[name], value, atol=0.05 * np.std(value))


def test_a_frozen_network_is_saved_and_loaded(tmp_path):
    copy = frozen(nested(), "bfloat16")
    copy.save(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "frozen.keras")(X), copy(X))


def weights_after(teacher, method):
    keras.utils.set_random_seed(0)
    distiller = compiled(Distiller(student=convolutional(width=8), teacher=teacher, methods=[method]))
    distiller.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return np.concatenate([value.ravel() for value in values(distiller.student.variables)])


@pytest.mark.parametrize("method", [KD, FitNet])
def test_a_frozen_teacher_trains_the_same_student(method):
    teacher = trained(convolutional(width=16, normalized=True))
    expected = weights_after(teacher, method(weight=0.5))
    np.testing.assert_allclose(weights_after(frozen(teacher), method(weight=0.5)), expected, atol=1e-5)
    rounded = weights_after(frozen(teacher, "bfloat16"), method(weight=0.5))
    assert 0 < np.abs(rounded - expected).max() < 0.05


def test_invalid_models_and_arguments():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="Expected a Functional or Sequential model to freeze"):
        frozen(Subclassed())
    with pytest.raises(ValueError, match="Did you mean bfloat16"):
        frozen(convolutional(), "bfloat1")
    dense = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    dense.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="plain weights to freeze"):
        frozen(dense)
    quantized = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="plain weights to freeze"):
        frozen(quantized)
    with pytest.raises(ValueError, match="'double': "):
        frozen(keras.Sequential([keras.Input((8,)), layers.Lambda(lambda x: 2 * x, name="double")]))
    teacher = Teacher(frozen(trained(convolutional(normalized=True))))
    with pytest.raises(ValueError, match="a map that comes from a BatchNormalization"):
        Distiller(student=convolutional(normalized=True), teacher=teacher, methods=[OFD()])


def test_a_norm_after_a_convolution_that_changes_its_kernel_is_not_folded():
    class Standardized(layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            mean = keras.ops.mean(kernel, (0, 1, 2), keepdims=True)
            return super().convolution_op(inputs, (kernel - mean) / keras.ops.std(kernel, (0, 1, 2), keepdims=True))

    stack = [Standardized(4, 3, name="conv"), layers.BatchNormalization(name="norm"), layers.Flatten(), layers.Dense(3)]
    network = trained(keras.Sequential([keras.Input(SHAPE), *stack]))
    copy = frozen(network)
    assert "norm" in [layer.name for layer in copy.layers if isinstance(layer, layers.BatchNormalization)]
    np.testing.assert_allclose(copy(X), network(X, training=False), rtol=1e-4, atol=1e-5)
