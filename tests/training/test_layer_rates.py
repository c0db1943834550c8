"""Optimizers with a learning rate for each layer, compared with NumPy, and the depths of layers."""

import keras
import numpy as np
import pytest

import kd_keras as kd
from kd_keras import models
from kd_keras.networks.depth import relative_depths
from kd_keras.training.layer_rates import LayerRatesAdam, LayerRatesSGD, layer_factors


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(5, "relu"), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def gradients(network, step):
    random = np.random.default_rng(step)
    return [random.normal(size=variable.shape).astype("float32") for variable in network.trainable_variables]


def test_sgd_equals_numpy(network):
    factors = [0.04, 0.04, 0.2, 0.2, 1.0, 1.0]
    optimizer = LayerRatesSGD(0.1, layer_factors(network, 0.04), decay=0.3, momentum=0.9, coupled_weight_decay=0.02)
    weights = [weight.astype("float64") for weight in network.get_weights()]
    momenta = [np.zeros_like(weight) for weight in weights]
    for step in range(5):
        optimizer.apply(gradients(network, step), network.trainable_variables)
        for n, gradient in enumerate(gradients(network, step)):
            weights[n] -= 0.1 * factors[n] * 0.3 * weights[n]
            momenta[n] = 0.9 * momenta[n] - 0.1 * factors[n] * (gradient + 0.02 * weights[n])
            weights[n] = weights[n] + momenta[n]
    for weight, expected in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


def test_adamw_equals_numpy(network):
    factors = [0.04, 0.04, 0.2, 0.2, 1.0, 1.0]
    optimizer = LayerRatesAdam(0.01, layer_factors(network, 0.04), decay=0.5)
    weights = [weight.astype("float64") for weight in network.get_weights()]
    first, second = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    for step in range(5):
        optimizer.apply(gradients(network, step), network.trainable_variables)
        for n, gradient in enumerate(gradients(network, step)):
            rate = 0.01 * factors[n]
            first[n], second[n] = 0.9 * first[n] + 0.1 * gradient, 0.999 * second[n] + 0.001 * gradient**2
            corrected = rate * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            weights[n] = (1 - rate * 0.5) * weights[n] - corrected * first[n] / (np.sqrt(second[n]) + 1e-7)
    for weight, expected in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


def test_equal_rates_are_those_of_keras(network):
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    optimizers = (
        LayerRatesAdam(0.01, layer_factors(network, 1.0), decay=0.1),
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
    )
    for step in range(3):
        for model, optimizer in zip((network, copy), optimizers, strict=True):
            optimizer.apply(gradients(network, step), model.trainable_variables)
    for weight, expected in zip(network.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-7)


def test_a_variable_that_is_not_the_networks_has_the_full_rate(network):
    adapter = keras.Variable([1.0])
    optimizer = LayerRatesSGD(0.5, layer_factors(network, 0.1))
    zeros = [np.zeros(variable.shape, "float32") for variable in network.trainable_variables]
    optimizer.apply([*zeros, np.ones(1, "float32")], [*network.trainable_variables, adapter])
    assert float(adapter[0]) == 0.5


def test_branches_of_a_block_are_equally_deep():
    network = models.build("resnet8", (16, 16, 3), 10)
    depths = {variable.path: depth for variable, depth in relative_depths(network)}
    assert depths["stem_conv/kernel"] == 0 == depths["stem_bn/gamma"] and depths["logits/kernel"] == 1
    # stem, six convolutions of three blocks in a row, classifier
    assert depths["stage2_block1_1_conv/kernel"] == depths["stage2_block1_shortcut_conv/kernel"] == pytest.approx(3 / 7)
    assert len(depths) == len(network.trainable_variables)


def test_of_a_transformer_every_block_is_deeper_than_the_one_before():
    network = models.build("vit_lite", (16, 16, 3), 10)
    depths = [depth for _, depth in relative_depths(network)]
    assert depths[0] == 0 and depths[-1] == 1 and len(depths) == len(network.trainable_variables)


def test_an_only_layer_is_the_classifier():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    assert list(layer_factors(network, 0.1).values()) == [1.0, 1.0]


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="whose layers have an order"):
        relative_depths(Own())


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    settings = {"data": "digits", "data_dir": data_dir.partition("=")[2], "train_split": "train[:64]"}
    settings |= {"test_split": "test[:64]", "batch_size": 32, "epochs": 1}
    return settings, kd.train(model="mlp(hidden=(8, 8))", **settings, run=tmp_path_factory.mktemp("rates") / "run")


@pytest.mark.filterwarnings("ignore:After training")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_is_fine_tuned_with_lower_rates_of_its_first_layers(run, optimizer, tmp_path):
    settings, source = run
    path = tmp_path / "tuned"
    tuned = kd.train(model=source, first_layer_rate=1e-6, optimizer=optimizer, **settings, run=path)
    before, after = source.model().get_weights(), tuned.model().get_weights()
    kernels = [n for n, weight in enumerate(before) if weight.ndim == 2]
    changes = [np.abs(after[n] - before[n]).max() for n in kernels]
    assert changes[0] < 1e-6 < changes[-1] and changes[0] < changes[1] < changes[2]
    assert tuned.settings["first_layer_rate"] == "1e-06"


def test_invalid_requests_are_refused(run, tmp_path):
    settings, source = run
    for options, message in (
        ({"first_layer_rate": 0}, "above 0"), ({"first_layer_rate": 1.5}, "at most 1"),
        ({"first_layer_rate": 0.5, "optimizer": "dot"}, "'dot'"), ({"first_layer_rate": "low"}, "first_layer_rate"),
        ({"first_layer_rate": 0.5, "freeze_backbone": True}, "has no effect"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=message):
            kd.train(model=source, **settings, **options, run=tmp_path / "run")
    new = {**settings, "first_layer_rate": 0.5, "run": tmp_path / "run"}
    for train in (
        lambda: kd.train(model="mlp", **new), lambda: kd.schemes.train_with_past_student(student="mlp", **new),
        lambda: kd.schemes.train_peers(peers=["mlp", "resnet8"], **new),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="first_layer_rate needs a network with trained weights"):
            train()
