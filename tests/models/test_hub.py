"""KerasHub's image classifiers: built anew, from a folder, and what is said where that does not go."""

import sys

import keras
import numpy as np
import pytest

from kd_keras.models import build
from kd_keras.networks.taps import Tapped

SMALL = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 16],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
    "block_type": "basic_block",
}
IMAGES = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype("float32")


def small(classes=5, **options):
    pytest.importorskip("keras_hub")
    return build("hub/ResNetImageClassifier", (32, 32, 3), classes, **SMALL, **options)


def test_a_classifier_built_anew():
    model = small()
    assert model.output_shape == (None, 5)
    specs = Tapped(model, ["stages", "embedding", "logits"]).specs
    assert [spec.shape[1:] for spec in specs["stages"]] == [(16, 16, 64), (8, 8, 64), (4, 4, 16)]
    assert specs["embedding"].shape == (None, 16) and specs["logits"].shape == (None, 5)
    np.testing.assert_allclose(Tapped(model, ["logits"])(IMAGES, False)[0], model(IMAGES), atol=1e-6)


def test_a_preset_of_ones_own(tmp_path):
    model = small()
    model.save_to_preset(tmp_path / "preset")
    model.backbone.save_to_preset(tmp_path / "backbone")
    images = {name: np.array(part(IMAGES)) for name, part in (("whole", model), ("backbone", model.backbone))}
    same = build(f"hub/{tmp_path / 'preset'}", (32, 32, 3), 5)
    np.testing.assert_allclose(same(IMAGES), images["whole"], atol=1e-6)
    for folder in ("preset", "backbone"):
        other = build(f"hub/{tmp_path / folder}", (32, 32, 3), 7)
        assert other.output_shape == (None, 7)
        np.testing.assert_allclose(other.backbone(IMAGES), images["backbone"], atol=1e-6)
    fresh = build(f"hub/{tmp_path / 'preset'}", (32, 32, 3), 5, weights=False)
    assert np.abs(fresh(IMAGES) - images["whole"]).max() > 1e-3


def test_what_is_refused(tmp_path):
    pytest.importorskip("keras_hub")
    with pytest.raises(ValueError, match="ResNetImageClassifier"):
        build("hub/ResNetImageClasifier", (32, 32, 3), 5)
    with pytest.raises(ValueError, match="did you mean .*resnet_50_imagenet"):
        build("hub/resnet_50_imagenets", (32, 32, 3), 5)
    with pytest.raises(TypeError, match="stackwise_num_filters"):
        build("hub/ResNetImageClassifier", (32, 32, 3), 5, filters=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="check the network, or the folder"):
        build(f"hub/{tmp_path / 'empty'}", (32, 32, 3), 5)


def test_without_kerashub(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"kd_keras\[hub\]"):
        build("hub/ResNetImageClassifier", (32, 32, 3), 5)
    assert build("resnet8", (8, 8, 3), 5).count_params()


def test_it_trains_a_step():
    model = small()
    model.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(model.train_on_batch(IMAGES, np.array([0, 1]), return_dict=True)["loss"])
