"""The embedding and the stages of networks without a classifier: backbones of convolutions and of transformers."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller
from kd_keras.methods import RKD
from kd_keras.networks.stages import StagedGraph
from kd_keras.networks.taps import Tapped
from tests.support.networks import convolutional

X = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype("float32")


def embedding(network):
    tapped = Tapped(network, ["embedding"], output=False)
    return np.array(tapped(X[:4, : network.input_shape[1], : network.input_shape[2]], training=False)[1]["embedding"])


def transformer(kind):
    models = pytest.importorskip("keras_hub").models
    options = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "image_shape": (32, 32, 3)}
    options |= {"mlp_dim": 32} if kind == "ViTBackbone" else {"intermediate_dim": 32}
    return getattr(models, kind)(**options)


@pytest.mark.parametrize("kind", ["ViTBackbone", "DINOV2Backbone", "DeiTBackbone"])
def test_a_bare_transformer_returns_tokens_and_has_no_embedding(kind):
    backbone = transformer(kind)
    with pytest.raises(ValueError, match=r"no tap 'embedding'.*tokens.*GlobalAveragePooling1D"):
        Distiller(student=convolutional(shape=(32, 32, 3)), teacher=backbone, methods=[RKD()])
    for head in (layers.GlobalAveragePooling1D(), lambda tokens: tokens[:, 0]):
        network = keras.Model(backbone.input, head(backbone.output))
        np.testing.assert_allclose(embedding(network), network(X, training=False), rtol=1e-5)


@pytest.mark.parametrize("kind", ["MobileNet", "ResNet50V2", "ConvNeXtTiny", "VGG16", "DenseNet121"])
def test_the_embedding_of_a_bare_backbone_is_its_output(kind):
    build = getattr(keras.applications, kind)
    pooled = build(include_top=False, pooling="avg", weights=None, input_shape=(32, 32, 3))
    graph = StagedGraph(pooled)
    assert graph.spec(graph.embedding()).shape == pooled.output_shape and graph.find_classifier() is None
    maps = build(include_top=False, weights=None, input_shape=(32, 32, 3))
    graph = StagedGraph(maps)
    assert graph.spec(graph.embedding()).shape == (None, maps.output_shape[-1])
    assert graph.spec(graph.stages()[-1]).shape[-1] == maps.output_shape[-1]


def test_the_embedding_of_a_pooled_map_is_the_output_itself():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(inputs))
    maps = layers.ReLU()(layers.Add()([x, layers.Conv2D(4, 1)(inputs)]))
    pooled = layers.GlobalAveragePooling2D()(maps)
    for network in (keras.Model(inputs, maps), keras.Model(inputs, pooled)):
        np.testing.assert_allclose(embedding(network), keras.Model(inputs, pooled)(X[:, :8, :8]), rtol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(5, 1)(x)),  # a convolution as classifier
        lambda x: layers.Softmax()(layers.BatchNormalization()(layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))),
        lambda x: layers.Softmax()(layers.GlobalAveragePooling2D()(layers.Conv2D(5, 1, activation="relu")(x))),
        lambda x: {"logits": layers.Dense(5, activation="relu")(layers.GlobalAveragePooling2D()(x))},
        lambda x: layers.Activation("linear", dtype="float32")(layers.Dense(5)(layers.GlobalAveragePooling2D()(x))),
    ],
)
def test_what_computes_logits_is_a_classifier(head):
    inputs = keras.Input((8, 8, 3))
    maps = layers.ReLU(name="relu")(layers.Conv2D(7, 3, name="conv")(inputs))
    network = keras.Model(inputs, head(maps))
    expected = keras.Model(inputs, layers.GlobalAveragePooling2D()(maps))(X[:, :8, :8])
    np.testing.assert_allclose(embedding(network), expected, rtol=1e-5, atol=1e-6)


def test_two_branches_of_logits_have_no_embedding():
    inputs = keras.Input((8, 8, 3))
    branches = [layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))) for _ in range(2)]
    network = keras.Model(inputs, layers.Activation("linear")(layers.Add()(branches)))
    with pytest.raises(ValueError, match="no single layer computes its logits"):
        Tapped(network, ["embedding"])
