"""The taps of transformers against slices of their outputs: KerasHub's with random weights, and one of plain layers."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import Distiller, models
from kd_keras.methods import Dense, Embedding, FitNet, Queue, Tokens
from kd_keras.networks.taps import Tapped
from tests.support.networks import convolutional

SMALL = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
X = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype("float32")


def backbone(kind, shape=(32, 32, 3), **options):
    hub = pytest.importorskip("keras_hub").models
    inner = {"mlp_dim": 32} if kind == "ViTBackbone" else {"intermediate_dim": 32}
    return getattr(hub, kind)(image_shape=shape, **SMALL, **inner, **options)


def read(network, tap, images=X):
    if isinstance(network.input, dict):
        images = dict.fromkeys(network.input, images)
    tapped = Tapped(network, [tap], output=False)
    values = np.array(tapped(images, training=False)[1][tap])
    assert tapped.specs[tap].shape[1:] == values.shape[1:]
    return values


@pytest.mark.parametrize(
    "kind, before, options",
    [
        ("ViTBackbone", 1, {}),
        ("ViTBackbone", 0, {"use_class_token": False}),
        ("DeiTBackbone", 2, {}),
        ("DINOV2Backbone", 1, {"position_embedding_shape": (32, 32)}),
        ("DINOV2Backbone", 5, {"position_embedding_shape": (32, 32), "num_register_tokens": 4}),
        ("DINOV3Backbone", 5, {"num_register_tokens": 4}),
    ],
)
def test_tokens_are_the_patches_without_class_and_register_tokens(kind, before, options):
    network = backbone(kind, **options)
    images = dict.fromkeys(network.input, X) if isinstance(network.input, dict) else X
    output = np.array(network(images, training=False))
    assert output.shape == (2, before + 16, 16)
    expected = output[:, before:].reshape(2, 4, 4, 16)
    np.testing.assert_allclose(read(network, "tokens"), expected, atol=1e-6)
    np.testing.assert_allclose(read(network, "stages[-1]"), expected, atol=1e-6)
    if before:
        np.testing.assert_allclose(read(network, "cls"), output[:, 0], atol=1e-6)
    else:
        with pytest.raises(ValueError, match="no tap 'cls': it is no transformer with a class token"):
            Tapped(network, ["cls"])


def test_the_tokens_of_images_that_are_not_square_keep_their_rows():
    network = backbone("ViTBackbone", shape=(32, 24, 3))
    output = np.array(network(X[:, :, :24], training=False))
    np.testing.assert_allclose(read(network, "tokens", X[:, :, :24]), output[:, 1:].reshape(2, 4, 3, 16), atol=1e-6)


def test_siglip_has_no_class_token():
    network = backbone("SigLIPVisionEncoder")
    assert read(network, "tokens").shape == (2, 4, 4, 16)
    with pytest.raises(ValueError, match="no tap 'cls'"):
        Tapped(network, ["cls"])


def test_classifiers_of_kerashub_have_the_tokens_of_their_backbone():
    pytest.importorskip("keras_hub")
    network = models.build("hub/ViTImageClassifier", (32, 32, 3), 5, mlp_dim=32, **SMALL)
    np.testing.assert_allclose(read(network, "cls"), read(network, "embedding"), atol=1e-6)
    assert read(network, "tokens").shape == (2, 4, 4, 16)


def test_a_transformer_of_plain_layers():
    inputs = keras.Input((8, 12, 3))
    maps = layers.Conv2D(5, 4, strides=4)(inputs)
    tokens = layers.LayerNormalization()(layers.Reshape((6, 5))(maps))
    tokens = layers.Add()([tokens, layers.MultiHeadAttention(1, 5)(tokens, tokens)])
    network = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(tokens)))
    expected = np.array(keras.Model(inputs, tokens)(X[:, :8, :12])).reshape(2, 2, 3, 5)
    np.testing.assert_allclose(read(network, "tokens", X[:, :8, :12]), expected, atol=1e-6)


def test_a_network_of_convolutions_has_no_tokens():
    for tap in ("tokens", "cls"):
        with pytest.raises(ValueError, match=f"no tap '{tap}'"):
            Tapped(convolutional(), [tap])


METHODS = {
    "fitnet": lambda: FitNet(student_tap="stages[-1]", teacher_tap="stages[-1]"),
    "tokens": Tokens,
    "dense": Dense,
    "queue": lambda: Queue(size=8, teacher_tap="cls"),
    "cosine": lambda: Embedding(teacher_tap="cls"),
}


@pytest.mark.parametrize("direction", ["map to tokens", "tokens to map"])
def test_methods_between_maps_and_tokens(direction):
    """The adapter resizes to the teacher's grid; gradients reach the student."""
    shape = (32, 32, 3)
    networks = [convolutional(shape=shape, pixels=True), models.build("vit_lite", shape, 4, depth=1, patch_size=8)]
    student, teacher = networks if direction == "map to tokens" else reversed(networks)
    chosen = METHODS if direction == "map to tokens" else {k: v for k, v in METHODS.items() if k in ("tokens", "dense")}
    methods = [make() for make in chosen.values()]
    distiller = Distiller(student=student, teacher=teacher, methods=methods, hard_weight=0)
    distiller.compile(optimizer=keras.optimizers.SGD(1e-3))
    before = [np.array(variable) for variable in student.trainable_variables]
    logs = distiller.train_on_batch(255 * X, return_dict=True)
    assert all(np.isfinite(logs[method.name]) and logs[method.name] > 0 for method in methods)
    assert any(np.abs(np.array(a) - b).max() > 0 for a, b in zip(student.trainable_variables, before, strict=True))
