"""Image encoders of KerasHub by name, saved as presets with random weights, as teachers of features."""

import keras
import numpy as np
import pytest

import kd_keras as kd
from kd_keras import models
from kd_keras.models.hub import hub_encoder, preset_classes
from kd_keras.networks.taps import Tapped

hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")
SMALL = {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
TEXT = {"vocabulary_size": 9, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


def save(place, kind):
    """A preset with random weights, and its image encoder as KerasHub builds it."""
    keras.utils.set_random_seed(3)
    if kind.startswith("DINO"):
        options = {"position_embedding_shape": (32, 32)} if kind == "DINOV2Backbone" else {}
        whole = encoder = getattr(hub.models, kind)(image_shape=(32, 32, 3), **SMALL, **options)
    else:
        family = kind.removesuffix("Backbone")
        encoder = getattr(hub.models, f"{family}VisionEncoder")(image_shape=(32, 32, 3), **SMALL)
        text = getattr(hub.models, f"{family}TextEncoder")(**TEXT, intermediate_dim=32)
        projection = {"projection_dim": 16} if family == "CLIP" else {}
        whole = getattr(hub.models, kind)(vision_encoder=encoder, text_encoder=text, **projection)
    whole.save_to_preset(place)
    return encoder


@pytest.mark.parametrize("kind", ["DINOV2Backbone", "DINOV3Backbone", "CLIPBackbone", "SigLIPBackbone"])
def test_the_encoder_of_a_preset_reads_pixels(kind, tmp_path):
    encoder = save(tmp_path / "preset", kind)
    expected = np.asarray(encoder(dict.fromkeys(encoder.input, PIXELS / 255), training=False))
    network = hub_encoder(str(tmp_path / "preset"), (32, 32, 3))
    np.testing.assert_allclose(network(PIXELS), expected, rtol=1e-4, atol=1e-5)
    assert Tapped(network, ["tokens"]).specs["tokens"].shape == (None, 4, 4, 16)
    assert preset_classes(str(tmp_path / "preset")) is None


def test_positions_that_fit_any_square_are_built_for_the_longer_side(tmp_path):
    save(tmp_path / "preset", "DINOV2Backbone")
    save(tmp_path / "third", "DINOV3Backbone")
    for folder in ("preset", "third"):
        network = hub_encoder(str(tmp_path / folder), (48, 64, 3))
        assert Tapped(network, ["tokens"]).specs["tokens"].shape == (None, 8, 8, 16)


def test_a_foundation_model_pretrains_a_student_by_its_name(tmp_path):
    save(tmp_path / "preset", "DINOV2Backbone")
    run = kd.pretrain(
        data="digits",
        data_dir=str(tmp_path),
        train_split="train[:32]",
        image_channels=3,
        image_size=(32, 32),
        teacher=f"hub/{tmp_path / 'preset'}",
        student="resnet8",
        methods=["queue(teacher_tap='cls')", "tokens"],
        batch_size=16,
        epochs=1,
        jit="off",
        run=tmp_path / "run",
    )
    assert run.model().output_shape == (None, 64)


def test_what_has_no_classifier_or_reads_no_images_is_refused(tmp_path):
    save(tmp_path / "preset", "DINOV2Backbone")
    with pytest.raises(ValueError, match="is an image encoder of KerasHub without a classifier"):
        models.build(f"hub/{tmp_path / 'preset'}", (32, 32, 3), 5)
    hub.models.CLIPTextEncoder(**TEXT, intermediate_dim=32).save_to_preset(tmp_path / "text")
    with pytest.raises(ValueError, match="a preset that encodes images, but received"):
        hub_encoder(str(tmp_path / "text"), (32, 32, 3))
    with pytest.raises(ValueError, match="Did you mean dinov2_small"):
        preset_classes("dinov2_smal")
