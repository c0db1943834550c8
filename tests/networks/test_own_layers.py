"""Networks built on another one whose convolutions have fused activations can be saved, and predict the same."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import models
from kd_keras.networks.graph import Graph
from kd_keras.networks.own_layers import on_own_layers

SHAPE = (32, 48, 3)
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")


def small_network():
    """Two stages of convolutions with a fused activation."""
    parts = [layers.Conv2D(4, 3, strides=2, padding="same", activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input(SHAPE), *parts, layers.GlobalAveragePooling2D(), layers.Dense(3)])


@pytest.mark.parametrize(
    "name, options",
    [
        ("detector/mobilenet_v3_small", {"pyramid": (2, 3)}),
        ("segmenter/mobilenet_v3_small", {}),
        ("embedder/mobilenet_v3_small", {}),
        ("segmenter/applications/VGG16", {}),
    ],
)
def test_a_saved_network_predicts_the_same(name, options, tmp_path):
    keras.utils.set_random_seed(0)
    network = models.build(name, SHAPE, 3, **options)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    for value, expected in zip(keras.tree.flatten(loaded(IMAGES)), keras.tree.flatten(network(IMAGES)), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_the_tensors_are_those_of_the_graph():
    network = small_network()
    graph = Graph(network)
    tensors = [edge.results[0] for edge in graph.edges if not edge.path.endswith(":linear")]
    inputs, copies = on_own_layers(graph, tensors)
    values, expected = keras.Model(inputs, copies)(IMAGES), keras.Model(graph.inputs, tensors)(IMAGES)
    for value, tensor in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value, tensor)


def test_a_tensor_before_a_fused_activation_raises():
    graph = Graph(small_network())
    with pytest.raises(ValueError, match="conv2d.*:linear.*before a fused activation"):
        on_own_layers(graph, [graph.edges[0].results[0]])


def test_nested_models_with_equal_names_raise():
    def part():
        return keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")])

    inputs = keras.Input((4,))
    graph = Graph(keras.Model(inputs, part()(part()(inputs))))
    with pytest.raises(ValueError, match="layers of .* that differ in name"):
        on_own_layers(graph, [graph.output])
