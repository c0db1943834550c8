"""Pretraining without labels, and fine-tuning from it."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras.networks.embedding_networks import ends_in_embedding
from kd_keras.runs.pretrain import is_transformer
from kd_keras.runs.run import Run
from kd_keras.training import Checkpoint
from tests.support.networks import same, values
from tests.support.programs import program

LABELED = {
    "data": "digits", "train_split": "train[:64]", "test_split": "test[:64]", "batch_size": 32, "epochs": 1,
    "jit": "off",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def small(width, *head, size=8):
    """A network of gray images with one convolution, which is quick to compile."""
    keras.utils.set_random_seed(width)
    body = [keras.layers.Conv2D(width, 3, strides=2, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((size, size, 1)), keras.layers.Rescaling(1 / 255), *body, *head])


@pytest.fixture(scope="module")
def teacher(place):
    small(12, keras.layers.Dense(10)).save(place / "teacher.keras")
    return str(place / "teacher.keras")


@pytest.fixture(scope="module")
def folder(place, teacher):
    """Digits in nested folders, and a file that is no image."""
    source = kd.data.load("digits", "train[:48]", str(place))
    for number, example in enumerate(source.examples.as_numpy_iterator()):
        inner = place / "images" / f"part{number % 3}" / ("deep/er" if number % 2 else ".")
        inner.mkdir(parents=True, exist_ok=True)
        Image.fromarray(example["image"][..., 0]).save(inner / f"{number}.png")
    (place / "images" / "broken.jpg").write_bytes(b"no image")
    return place / "images"


@pytest.fixture(scope="module")
def options(place, folder, teacher):
    small(6, keras.layers.Dense(7)).save(place / "student.keras")
    student = str(place / "student.keras")
    shared = {"batch_size": 16, "data_dir": str(place), "jit": "off"}
    return {"data": folder, "teacher": teacher, "student": student, **shared}


@pytest.fixture(scope="module")
def pretrained(place, options):
    measured = {"labeled": "digits", "labeled_split": "train[:64]", "test_split": "test[:64]"}
    logger, messages = logging.getLogger("kd_keras"), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    with pytest.warns(UserWarning, match=r"1 of 49 files cannot be read and are left out. .*broken.jpg"):
        run = kd.pretrain(**{**options, "student": "resnet8"}, **measured, epochs=2, run=place / "pretrained")
    logger.removeHandler(handler)
    logger.setLevel(level)
    run.messages = messages
    return run


def test_the_run_has_the_embedding_network_alone(pretrained):
    """The classifier and the adapters are gone; the rest has the layers of the student."""
    model = pretrained.model()
    assert model.output_shape == (None, 64) and ends_in_embedding(model)
    whole = kd.models.build("resnet8", (8, 8, 1), 10)
    assert model.count_params() == whole.count_params() - 64 * 10 - 10
    kept = [layer.name for layer in whole.layers if layer.name != "logits"]
    assert [layer.name for layer in model.layers] == [*kept, "embedding_out"]
    assert pretrained.result["parameters"] == model.count_params()
    assert pretrained.result["embedding_dimension"] == 64


def test_the_published_settings_are_the_defaults(pretrained):
    settings = pretrained.settings
    expected = {
        "optimizer": "adamw", "learning_rate": "0.0005", "weight_decay": "1e-06", "mixup": "1.0", "clip_norm": "1.0",
        "scale_learning_rate": "sqrt", "base_batch_size": "1536", "schedule": "cosine", "method": ["queue", "tokens"],
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    assert is_transformer("hub/ViTImageClassifier") and not is_transformer("resnet8")


def test_a_recorded_teacher_pretrains_the_same_student(options, place):
    """A slow teacher, which may be any function, is asked once for each view, also for nested folders of images."""
    network = keras.models.load_model(options["teacher"])
    embed = keras.Model(network.inputs, network.layers[-2].output)
    asked = []

    def function(images):
        asked.append(len(images))
        return np.asarray(embed(images))

    views = {"unlabeled": True, "mixup": 1.0, "views": 2, "methods": ["queue"]}
    data = {name: options[name] for name in ("data", "batch_size", "data_dir")}
    slow = kd.Teacher(function, tap="embedding")
    recording = kd.record(teacher=slow, output=place / "recording", **views, **data).directory
    assert sum(asked) == 2 * 48
    shared = {"methods": ["queue"], "epochs": 2}
    live = kd.pretrain(**options, **shared, run=place / "live")
    without = {name: value for name, value in options.items() if name != "teacher"}
    recorded = kd.pretrain(**without, **shared, recording=recording, run=place / "recorded")
    # Recorded embeddings are float16, of eleven significant bits; their cosines are divided by a temperature of 0.07.
    np.testing.assert_allclose(recorded.history["queue"], live.history["queue"], rtol=2e-3)
    assert same(values(recorded.model().variables), values(live.model().variables), atol=1e-4)
    with pytest.raises(ValueError, match="mixup"):
        kd.pretrain(**without, **shared, recording=recording, mixup=0.0, run=place / "other")
    with pytest.raises(ValueError, match="needs teacher= or recording=, but received neither"):
        kd.pretrain(**without, **shared, run=place / "neither")


def test_labeled_images_are_not_tested_on_themselves(options, place):
    source = kd.data.load("digits", "train[:64]", str(place))
    same = {"labeled": str(place), "test_data": place, "test_split": "train"}  # two texts of one folder
    for labeled in ({"labeled": source}, {"labeled": "digits", "labeled_split": "test"}, same):
        with pytest.raises(ValueError, match="Expected test images that differ from the labeled images"):
            kd.pretrain(**options, **labeled, run=place / "itself")


def test_labeled_and_test_images_get_the_size_of_the_images_to_train_on(options, place):
    def enlarged(split):
        def images(example):
            return {**example, "image": tf.cast(tf.image.resize(example["image"], (12, 10)), "uint8")}

        source = kd.data.load("digits", split, str(place))
        return kd.data.Source(source.examples.map(images), name=split, size=source.size, classes=10)

    known = {"labeled": enlarged("train[:40]"), "test_data": enlarged("test[:20]")}
    run = kd.pretrain(**options, **known, methods=["queue"], epochs=1, run=place / "sizes")
    assert 0 <= run.result["last"]["val_knn"] <= 1


def test_labels_of_any_task_are_left_out(options, place):
    """A dataset with boxes is a dataset of images."""

    def boxed(example):
        label = {"boxes": tf.zeros((1, 4)), "classes": tf.zeros((1,), "int64")}
        return {"image": example["image"], "index": example["index"], "label": label}

    digits = kd.data.load("digits", "train[:32]", str(place))
    source = kd.data.Source(digits.examples.map(boxed), name="boxes", size=32, classes=1, image_shape=(8, 8, 1))
    run = kd.pretrain(**{**options, "data": source}, methods=["queue"], epochs=1, run=place / "boxes")
    assert run.model().output_shape == (None, 6)


def test_lars_has_a_rate_and_a_decay_of_its_own(options, place):
    run = kd.pretrain(**options, methods=["queue"], optimizer="lars", epochs=1, run=place / "lars")
    rates = {name: run.settings[name] for name in ("learning_rate", "weight_decay", "coupled_weight_decay")}
    assert rates == {"learning_rate": "1.8", "weight_decay": "0.0", "coupled_weight_decay": "1e-06"}


def test_labeled_images_measure_the_embeddings(pretrained):
    history = pretrained.history
    assert {"queue", "tokens", "loss", "val_knn", "val_linear_probe"} <= set(history)
    assert all(0 <= value <= 1 for name in ("val_knn", "val_linear_probe") for value in history[name])
    assert pretrained.result["metric"] == "knn"
    assert pretrained.result["best_val_knn"] == max(history["val_knn"]) > 0.2
    assert ends_in_embedding(pretrained.best_model())


def test_progress_has_images_per_second_and_the_time_left(pretrained):
    assert any("images/s" in text and "2.0 of 2 epochs" in text and "0 s left" in text for text in pretrained.messages)


def test_one_call_fine_tunes(pretrained, place):
    frozen = kd.train(model=pretrained, data_dir=str(place), run=place / "frozen", freeze_backbone=True, **LABELED)
    before, after = pretrained.model(), frozen.model()
    assert after.output_shape == (None, 10)
    for layer in before.layers[:-1]:
        assert same(values(layer.variables), values(after.get_layer(layer.name).variables)), layer.name
    tuned = kd.train(model=str(pretrained.path), data_dir=str(place), run=place / "tuned", **LABELED)
    assert tuned.settings["learning_rate"] == "0.005"
    assert not same(values(before.variables), values(tuned.model().variables[: len(before.variables)]))


def test_a_pretrained_student_can_be_distilled(pretrained, teacher, place):
    run = kd.distill(teacher=teacher, student=pretrained, data_dir=str(place), run=place / "distilled", **LABELED)
    assert run.model().output_shape == (None, 10)


def test_a_network_without_classifier_is_not_evaluated(pretrained, place):
    message = "is pretrained without labels and returns embeddings"
    with pytest.raises(ValueError, match=message):
        kd.evaluate([pretrained], data="digits", data_dir=str(place), test_split="test[:64]")
    with pytest.raises(ValueError, match=message):
        kd.export(pretrained, data="digits", data_dir=str(place), formats=["saved_model"])


def test_it_resumes(options, place, monkeypatch):
    """An interrupted pretraining continues with the queue and the adapters of its checkpoint."""
    settings = {**options, "epochs": 2, "methods": ["queue", "tokens"], "deterministic": True}
    whole = kd.pretrain(**settings, run=place / "whole")
    end, saved = Checkpoint.on_epoch_end, []

    def interrupted(self, epoch, logs=None):
        end(self, epoch, logs)
        saved.append(epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "on_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kd.pretrain(**settings, run=place / "resumed")
    monkeypatch.undo()
    assert saved == [0] and not Run(place / "resumed").is_complete
    resumed = kd.pretrain(**settings, run=place / "resumed")
    np.testing.assert_allclose(resumed.history["loss"], whole.history["loss"], rtol=1e-5)
    for one, other in zip(resumed.model().get_weights(), whole.model().get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("head", [(), (keras.layers.Dense(7, activation="softmax"),)], ids=["headless", "softmax"])
def test_a_network_of_the_user(head, options, place):
    """Also after training the network of the run is saved without anything but its own layers."""
    run = kd.pretrain(
        **{**options, "student": small(5, *head)}, methods=["dense"], epochs=1, run=place / f"own{len(head)}"
    )
    assert run.model().output_shape == (None, 5)


def test_a_network_of_keras_applications(options, place):
    teacher = small(9, keras.layers.Dense(10), size=32)
    changed = {"student": "applications/MobileNet(alpha=0.25)", "teacher": teacher, "image_size": (32, 32)}
    run = kd.pretrain(**{**options, **changed}, methods=["queue"], epochs=1, run=place / "application")
    assert run.model().output_shape == (None, 256)


def test_requests_that_cannot_work_leave_no_run(options, place, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file.png").write_bytes(b"no image")
    for changed, message in (
        ({"data": tmp_path / "empty"}, "but received 1 files, none of which is an image"),
        ({"data": tmp_path / "notes.txt"}, "nothing here is not an image"),
        ({"train_split": "train[:9]"}, "no split, because all images"),
        ({"without_classes": (1,)}, "images without labels, but received without_classes=1"),
        ({"methods": ["kd"]}, "no class|classes"),
        ({"test_data": "digits"}, "received no labeled="),
        ({"student": "mlp(hidden=(4,))"}, "tap|map"),
    ):
        with pytest.raises(ValueError, match=message):
            kd.pretrain(**{**options, **changed}, epochs=1, run=place / "refused")
        assert not (place / "refused").exists()


def test_the_program_repeats_its_flagfile(options, place):
    flags = [f"--data={options['data']}", f"--teacher={options['teacher']}", f"--data_dir={place}"]
    short = ["--epochs=1", "--batch_size=16", f"--student={options['student']}", "--flip", "--jit=off"]
    program("pretrain", *flags, *short, f"--run={place / 'program'}")
    again = place / "again"
    program("pretrain", f"--flagfile={place / 'program' / 'flags.txt'}", f"--run={again}")
    assert (again / "flags.txt").read_text() == (place / "program" / "flags.txt").read_text()
    recorded = Run(place / "program").settings
    expected = {"mixup": "1.0", "weight_decay": "1e-06", "learning_rate": "0.0005"}
    assert {name: recorded[name] for name in expected} == expected
