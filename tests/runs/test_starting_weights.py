"""Networks that start from trained weights: the learning rate, a frozen backbone, and teachers by name."""

import sys
import warnings

import keras
import numpy as np
import pytest

import kd_keras as kd
from kd_keras import models
from kd_keras.networks.backbone import freeze_backbone
from kd_keras.runs import Run
from kd_keras.runs.images import Images
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.students import build_network
from tests.support.networks import same, values

SMALL = {"data": "digits", "train_split": "train[:64]", "test_split": "test[:64]", "batch_size": 32, "epochs": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(place):
    return kd.train(model="resnet8", data_dir=str(place), run=place / "trained", **SMALL)


def test_trained_weights_start_with_a_lower_rate(trained, place):
    assert trained.settings["learning_rate"] == "0.05"
    weights = {"weights": trained.path / "model.keras", "data_dir": str(place)}
    again = kd.train(model="resnet8", run=place / "again", **weights, **SMALL)
    assert again.settings["learning_rate"] == "0.005"
    adam = kd.train(model=str(trained.path), run=place / "adam", optimizer="adam", data_dir=str(place), **SMALL)
    assert adam.settings["learning_rate"] == "0.0001"
    chosen = kd.train(model="resnet8", run=place / "chosen", learning_rate=0.02, **weights, **SMALL)
    assert chosen.settings["learning_rate"] == "0.02"


def test_weights_of_another_architecture_are_warned_of(place, tmp_path):
    """A few layers fit by chance; without a warning the other ones would train anew at the lower rate."""
    images = Images(Recipe(), kd.data.load("digits", "train", str(place)), None)
    for name, warns in [("mobilenet_v2", True), ("resnet20", False)]:
        models.build(name, (8, 8, 1), 10).save_weights(tmp_path / "file.weights.h5")
        with warnings.catch_warnings(record=True) as caught:
            build_network("resnet8", images, 10, tmp_path / "file.weights.h5")
        messages = [str(warning.message) for warning in caught]
        assert any("Only 2 of 19 layers of 'resnet8' have weights in" in text for text in messages) == warns, messages


def test_a_frozen_backbone_is_not_trained(trained, place):
    weights = {"weights": trained.path / "model.keras", "data_dir": str(place)}
    run = kd.train(model="resnet8", run=place / "frozen", freeze_backbone=True, learning_rate=0.1, **weights, **SMALL)
    before, after = trained.model(), run.model()
    changed = [
        old.name
        for old, new in zip(before.layers, after.layers, strict=True)
        if not same(values(old.variables), values(new.variables))
    ]
    assert changed == [before.layers[-1].name]
    # The frozen backbone was a warm-up: a second run trains the whole network.
    again = kd.train(model=run, run=place / "thawed", learning_rate=0.1, data_dir=str(place), **SMALL).model()
    changed = [
        not same(values(old.trainable_variables), values(new.trainable_variables))
        for old, new in zip(after.layers, again.layers, strict=True)
        if old.trainable_variables
    ]
    assert len(changed) > 10 and all(changed)
    with pytest.raises(ValueError, match="freeze_backbone needs a network with trained weights, but resnet8"):
        kd.train(model="resnet8", run=place / "new", freeze_backbone=True, data_dir=str(place), **SMALL)
    assert not (place / "new").exists()


def test_a_given_network_is_trainable_again_after_its_backbone_was_frozen(place, monkeypatch):
    network = models.build("mlp", (8, 8, 1), 10, hidden=(8,))
    options = {"data_dir": str(place), **SMALL}
    run = kd.train(model=network, run=place / "given", freeze_backbone=True, **options)
    assert len(network.trainable_variables) == len(run.model().trainable_variables) == 4
    network.layers[1].trainable = False  # the user's own choice stays
    kept = len(network.trainable_variables)
    kd.train(model=network, run=place / "own", freeze_backbone=True, **options)
    assert len(network.trainable_variables) == kept
    monkeypatch.setattr(sys.modules["kd_keras.runs.session"], "_fit", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kd.train(model=network, run=place / "failed", freeze_backbone=True, **options)
    assert len(network.trainable_variables) == kept


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "applications/MobileNetV3Small"])
def test_only_the_classifier_stays_trainable(name):
    network = models.build(name, (32, 32, 3), 7)
    freeze_backbone(network)
    assert sum(int(np.prod(variable.shape)) for variable in network.trainable_variables) % 7 == 0
    assert {variable.shape[-1] for variable in network.trainable_variables} == {7}
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms and not any(layer.trainable for layer in norms)


def test_a_teacher_by_name_needs_trained_weights(place):
    tiny = {**SMALL, "data_dir": str(place), "image_size": (32, 32), "student": "mlp(hidden=(4,))"}
    for name, message in (
        ("resnet20", "names a model with new weights"),
        ("applications/MobileNet(alpha=0.25)", "names a model with new weights"),
        ("applications/MobileNet(weights='imagenet')", "a classifier of 1000 classes and the images have 10"),
    ):
        with pytest.raises(ValueError, match=message):
            kd.distill(teacher=name, run=place / "student", **tiny)
        assert not (place / "student").exists()
    network = keras.applications.MobileNet(
        alpha=0.25, weights=None, input_shape=(32, 32, 1), classes=10, classifier_activation=None
    )
    network.save_weights(place / "published.weights.h5")
    name = f"applications/MobileNet(alpha=0.25, weights='{place / 'published.weights.h5'}')"
    run = kd.distill(teacher=name, run=place / "student", **tiny)
    assert Run(run.path).settings["teacher"] == name and "teacher_accuracy" in run.result


def test_a_request_that_fails_in_its_first_step_leaves_no_run(place):
    keras.utils.clear_session()

    class Failing(keras.layers.Layer):
        def call(self, inputs, training=False):
            if training:
                raise ValueError("not in training")
            return inputs

    inputs = keras.Input((8, 8, 1))
    network = keras.Model(inputs, keras.layers.Dense(10)(Failing()(keras.layers.Flatten()(inputs))))
    with pytest.raises(ValueError, match="not in training"):
        kd.train(model=network, run=place / "failing", data_dir=str(place), **SMALL)
    assert not (place / "failing").exists()


def test_a_wrong_request_does_not_delete_the_run_that_it_would_overwrite(trained, place):
    content = (trained.path / "model.keras").read_bytes()
    for wrong in ({"model": "resnet21"}, {"model": "resnet8", "weights": place / "nowhere.keras"}):
        with pytest.raises(ValueError):
            kd.train(**wrong, data_dir=str(place), run=trained.path, overwrite=True, **SMALL)
    assert trained.is_complete and (trained.path / "model.keras").read_bytes() == content


def test_a_run_does_not_overwrite_what_it_learns_from(trained, place):
    content, learning = (trained.path / "model.keras").read_bytes(), {"student": "mlp", "methods": ["kd"]}
    overwriting = {"data_dir": str(place), "run": trained.path, "overwrite": True, **SMALL}
    calls = [
        lambda: kd.train(model=trained, **overwriting),
        lambda: kd.train(model="resnet8", weights=trained.path / "model.keras", **overwriting),
        lambda: kd.distill(teacher=trained, **learning, **overwriting),
        lambda: kd.distill(teacher=[trained.path / "best.keras", "resnet8"], **learning, **overwriting),
        lambda: kd.pretrain(teacher=trained, student="mlp", methods=["queue"], **overwriting),
        lambda: kd.schemes.train_peers(peers=["mlp", "mlp"], teacher=trained, **overwriting),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="deletes everything in it, but .* is in .*trained"):
            call()
    assert trained.is_complete and (trained.path / "model.keras").read_bytes() == content


def test_options_of_a_teacher_need_one(place):
    for options in ({"teacher_range": (0, 1)}, {"combine": "logits"}, {"teacher_precision": "bfloat16"}):
        with pytest.raises(ValueError, match="teacher_range=.* describe the use of teacher=, but received none"):
            kd.distill(student="mlp", methods=[], data_dir=str(place), run=place / "none", **options, **SMALL)
