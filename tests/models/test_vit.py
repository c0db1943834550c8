"""Vision transformers: layers against NumPy, both heads of DeiT, sizes of images, saving."""

import keras
import numpy as np
import pytest

from kd_keras import models
from kd_keras.models.vit import PatchEmbedding, SelfAttention
from kd_keras.networks.taps import Tapped
from tests.support.reference import random, softmax


def test_attention_by_hand():
    """Every head and token by itself, in float64."""
    layer, tokens = SelfAttention(2), random(3, 5, 8)
    keras.utils.set_random_seed(0)
    layer.build(tokens.shape)
    layer.qkv.kernel.assign(random(8, 24, seed=1))
    layer.qkv.bias.assign(random(24, seed=2))
    weights = [np.array(variable, "float64") for variable in (*layer.qkv.variables, *layer.project.variables)]
    qkv = tokens.astype("float64") @ weights[0] + weights[1]
    expected = np.zeros((3, 5, 8))
    for image in range(3):
        joined = np.zeros((5, 8))
        for head in range(2):
            query, key, value = (qkv[image, :, 8 * part + 4 * head : 8 * part + 4 * head + 4] for part in range(3))
            for place in range(5):
                probabilities = softmax(key @ query[place] / 2.0)
                joined[place, 4 * head : 4 * head + 4] = probabilities @ value
        expected[image] = joined @ weights[2] + weights[3]
    np.testing.assert_allclose(layer(tokens), expected, atol=1e-5)


def test_patches_are_in_the_order_of_the_rows_after_the_learned_tokens():
    layer, image = PatchEmbedding(2, 3, extra=2), np.zeros((1, 4, 6, 1), "float32")
    layer.build(image.shape)
    layer.project.kernel.assign(np.ones((2, 2, 1, 3)))
    layer.positions.assign(np.zeros((1, 8, 3)))
    layer.tokens.assign(np.array([[[7, 7, 7], [8, 8, 8]]]))
    image[0, 2:, 4:] = 1.0  # the last patch of the second row
    tokens = np.array(layer(image))[0, :, 0]
    np.testing.assert_allclose(tokens, [7, 8, 0, 0, 0, 0, 0, 4], atol=1e-6)


def test_the_prediction_of_deit_is_the_mean_of_both_heads():
    network, images = models.build("deit_tiny", (8, 12, 1), 5, depth=1), random(3, 8, 12, 1, scale=100.0)
    network.get_layer("class_head").bias.assign([3.0, 0, 0, 0, 0])
    network.get_layer("distillation_head").bias.assign([0, 2.0, 0, 0, 0])
    logits, taps = Tapped(network, ["logits:class_head", "logits:distillation_head", "embedding", "tokens", "cls"])(
        images, training=False
    )
    both = [softmax(np.array(taps[f"logits:{name}_head"], "float64")) for name in ("class", "distillation")]
    np.testing.assert_allclose(softmax(np.array(logits, "float64")), np.mean(both, 0), atol=1e-6)
    assert taps["tokens"].shape == (3, 2, 3, 192)
    np.testing.assert_array_equal(taps["embedding"], taps["cls"])


def test_stochastic_depth_leaves_out_branches_in_training_only():
    network, images = models.build("vit_lite", (8, 8, 1), 3, depth=2, drop_path=0.5), random(4, 8, 8, 1, scale=100.0)
    assert [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)] == [0.5, 0.5]
    once = np.array(network(images, training=False))
    np.testing.assert_array_equal(once, network(images, training=False))
    assert np.abs(once - network(images, training=True)).max() > 1e-6


def test_sizes_of_images():
    assert models.build("deit_tiny", (64, 64, 3), 5, depth=1).get_layer("patch_embedding").patch_size == 16
    assert models.build("deit_tiny", (32, 32, 3), 5, depth=1).get_layer("patch_embedding").patch_size == 4
    with pytest.raises(ValueError, match=r"multiples of the patch size 4, but received \(30, 32\)"):
        models.build("vit_lite", (30, 32, 3), 5)


@pytest.mark.parametrize("name", ["deit_tiny", "vit_lite"])
def test_a_saved_network_computes_the_same(name, tmp_path):
    network, images = models.build(name, (8, 8, 3), 4, depth=2), random(2, 8, 8, 3, scale=100.0)
    network.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(images), network(images))
