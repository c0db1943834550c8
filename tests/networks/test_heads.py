"""Which activation ends a network, and what its logits are."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras.networks import Tapped
from kd_keras.networks.graph import Graph
from kd_keras.networks.heads import find_head, logits_of, recognize_probabilities

X = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
ENDS = {
    "softmax": lambda z: layers.Softmax()(z),
    "softmax, then linear in float32": lambda z: layers.Activation("linear", dtype="float32")(layers.Softmax()(z)),
    "softmax, then Reshape": lambda z: layers.Reshape((4,))(layers.Softmax()(z)),
    "softmax, then Rescaling(1)": lambda z: layers.Rescaling(1.0)(layers.Softmax()(z)),
    "softmax, then Identity and Flatten": lambda z: layers.Flatten()(layers.Identity()(layers.Softmax()(z))),
    "an operation, then a cast": lambda z: keras.ops.cast(keras.ops.softmax(z), "float32"),
    "sigmoid": lambda z: layers.Activation("sigmoid")(z),
    "sigmoid, then a cast": lambda z: keras.ops.cast(keras.ops.sigmoid(z), "float32"),
    "sigmoid, nested": lambda z: keras.Sequential([keras.Input((4,)), layers.Activation("sigmoid")])(z),
}


def ending(end):
    inputs = keras.Input((6,))
    dense = layers.Dense(4)
    return keras.Model(inputs, end(dense(inputs))), dense


@pytest.mark.parametrize("name", ENDS)
def test_logits_are_what_the_activation_reads_whatever_keeps_the_values_after_it(name):
    model, dense = ending(ENDS[name])
    tapped = Tapped(model, ["logits"])
    output, taps = tapped(X, training=False)
    np.testing.assert_allclose(taps["logits"], X @ np.array(dense.kernel) + np.array(dense.bias), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output, model(X), rtol=1e-6)
    assert tapped.specs["logits"].activation == name.split(",")[0].replace("an operation", "softmax")


@pytest.mark.parametrize(
    "end, activation",
    [
        (lambda z: z, "linear"),
        (lambda z: layers.Activation("linear", dtype="float32")(z), "linear"),
        (lambda z: keras.ops.log(keras.ops.softmax(z)), "linear"),
        (lambda z: layers.Activation("log_softmax")(z), "linear"),
        (lambda z: layers.Lambda(keras.ops.softmax)(z), ""),
        (lambda z: layers.Average()([layers.Softmax()(z), layers.Softmax()(2 * z)]), ""),
    ],
)
def test_an_output_that_is_no_visible_activation_is_the_logits(end, activation):
    model, _ = ending(end)
    tapped = Tapped(model, ["logits"])
    np.testing.assert_allclose(tapped(X, training=False)[1]["logits"], model(X), rtol=1e-6)
    assert tapped.specs["logits"].activation == activation


def test_logits_of_maps_have_the_shape_of_the_output():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, layers.Reshape((16, 5))(layers.Softmax()(layers.Conv2D(5, 1)(inputs))))
    tapped = Tapped(model, ["logits"])
    images = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype("float32")
    output, taps = tapped(images, training=False)
    assert tapped.specs["logits"].shape == (None, 16, 5)
    np.testing.assert_allclose(keras.ops.softmax(taps["logits"]), output, rtol=1e-5)


def test_a_softmax_over_another_axis_counts_if_a_permutation_puts_it_last():
    inputs = keras.Input((5, 4))
    softmax = layers.Softmax(axis=1)(layers.Dense(4)(inputs))
    tapped = Tapped(keras.Model(inputs, layers.Permute((2, 1))(softmax)), ["logits"])
    output, taps = tapped(np.random.default_rng(2).normal(size=(2, 5, 4)), training=False)
    np.testing.assert_allclose(keras.ops.softmax(taps["logits"]), output, rtol=1e-5)
    with pytest.raises(ValueError, match="no tap 'logits': its softmax is not over the last axis"):
        Tapped(keras.Model(inputs, softmax), ["logits"])


def test_a_single_unit_keeps_its_axis():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.ops.squeeze(layers.Dense(1, activation="sigmoid")(inputs), -1))
    assert Tapped(model, ["logits"]).specs["logits"].shape == (None, 1)


@pytest.mark.parametrize(
    "end, match",
    [
        (
            lambda z: layers.Rescaling(100.0, name="percent")(layers.Softmax()(z)),
            "'percent' rescales the probabilities",
        ),
        (lambda z: layers.Dense(3, "sigmoid", activity_regularizer="l2", name="d")(z), "'d' regularizes its sigmoid"),
    ],
)
def test_an_activation_that_cannot_be_taken_off_is_an_error_only_if_logits_are_wanted(end, match):
    model, _ = ending(end)
    with pytest.raises(ValueError, match=match):
        Tapped(model, ["logits"])
    graph = Graph(model)
    assert find_head(graph, graph.output).problem
    Tapped(model, ["embedding"])


def test_probabilities_are_recognized_and_logits_are_not():
    generator = np.random.default_rng(0)
    z = generator.normal(size=(16, 4)) * 3
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    assert [recognize_probabilities(v) for v in (p, p.astype("float16"), 100 * p, np.eye(4))] == ["softmax"] * 4
    assert recognize_probabilities(1 / (1 + np.exp(-z))) == "sigmoid" == recognize_probabilities(p[:, :1])
    for logits in (z, np.abs(z), np.log(p), np.zeros((16, 4)), np.full((16, 4), np.nan), p[:2, :1]):
        assert recognize_probabilities(logits) == ""


def test_logits_of_probabilities_give_them_back():
    z = np.random.default_rng(0).normal(size=(16, 4))
    p, q = np.exp(z) / np.exp(z).sum(-1, keepdims=True), 1 / (1 + np.exp(-z))
    back = np.exp(logits_of(p, "softmax"))
    np.testing.assert_allclose(back, p, rtol=1e-6)
    np.testing.assert_allclose(logits_of(q, "sigmoid"), z, rtol=1e-5, atol=1e-6)
    assert np.isfinite(logits_of(np.eye(3), "sigmoid")).all()


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_activations_are_taken_off_quantized_layers(mode):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(4, "softmax")])
    if mode == "int4" and not hasattr(layers.Dense(1), "_int4_build"):
        pytest.skip("this Keras has no layers in int4")
    model.quantize(mode)
    output, taps = Tapped(model, ["logits", "embedding"])(X, training=False)
    np.testing.assert_allclose(output, model(X), rtol=1e-5)
    np.testing.assert_allclose(keras.ops.softmax(taps["logits"]), output, rtol=1e-5)


def test_the_integers_of_a_quantized_classifier_are_not_read_as_its_weights():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    model.quantize("int8")
    with pytest.raises(ValueError, match="quantized to int8. Use the network as it was before"):
        Tapped(model, ["embedding"]).specs.classifier()
