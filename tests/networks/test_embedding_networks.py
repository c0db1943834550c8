"""Classifiers that are taken off and put on again."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import models
from kd_keras.networks.embedding_networks import add_classifier, ends_in_embedding, remove_classifier
from kd_keras.networks.taps import Tapped
from tests.support.networks import convolutional

X = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")


def build(name):
    if name == "backbone of maps":
        return keras.applications.MobileNet(weights=None, include_top=False, alpha=0.25, input_shape=(32, 32, 3))
    if name == "nested":
        inputs = keras.Input((32, 32, 3))
        head = layers.Dense(4, activation="softmax")(layers.Dropout(0.5)(convolutional(shape=(32, 32, 3))(inputs)))
        return keras.Model(inputs, head)
    if name.startswith("hub"):
        pytest.importorskip("keras_hub")
        return models.build(name, (32, 32, 3), 5, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    options = {"depth": 1} if name == "deit_tiny" else {}
    return models.build(name, (32, 32, 3), 5, **options)


@pytest.mark.parametrize(
    "name",
    ["resnet8", "mobilenet_v3_small", "mobilefacenet", "vgg8", "mlp", "deit_tiny", "hub/ViTImageClassifier"]
    + ["applications/MobileNetV3Small", "backbone of maps", "nested"],
)
def test_the_network_ends_in_the_embedding_and_shares_the_layers(name, tmp_path):
    network = build(name)
    expected = np.array(Tapped(network, ["embedding"], output=False)(X, training=False)[1]["embedding"])
    cut = remove_classifier(network)
    assert ends_in_embedding(cut) and not ends_in_embedding(network)
    np.testing.assert_allclose(cut(X, training=False), expected, rtol=1e-5, atol=1e-6)
    ids = {id(variable) for variable in network.variables}
    assert cut.variables and all(id(variable) in ids for variable in cut.variables)
    np.testing.assert_allclose(
        Tapped(cut, ["embedding"], output=False)(X, training=False)[1]["embedding"], expected, rtol=1e-5, atol=1e-6
    )
    assert remove_classifier(cut) is cut
    cut.save(tmp_path / "cut.keras")
    loaded = keras.saving.load_model(tmp_path / "cut.keras")
    assert ends_in_embedding(loaded)
    classifier = add_classifier(loaded, 3)
    kernel, bias = classifier.layers[-1].get_weights()
    np.testing.assert_allclose(classifier(X, training=False), expected @ kernel + bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        Tapped(classifier, ["embedding"], output=False)(X, training=False)[1]["embedding"],
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_linear_layer_before_the_classifier_belongs_to_the_network():
    """Its output could be logits, if the last layer did not declare that it is the embedding."""
    parts = [keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(6, name="bottleneck"), layers.Dense(4)]
    cut = remove_classifier(keras.Sequential(parts))
    assert Tapped(cut, ["embedding"]).specs["embedding"].shape == cut.output_shape == (None, 6)


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="a Functional or Sequential model to pretrain, but received .*Own"):
        remove_classifier(Own())
