"""train, distill and record from Python: several calls in one process, with names, paths and objects."""

import shutil
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras import data, methods, models
from kd_keras.networks.saving import check_savable
from kd_keras.runs.devices import chosen_strategy
from kd_keras.runs.recipe import Recipe
from kd_keras.training.checkpoint_files import read, write
from tests.support.runs import interruption


@pytest.fixture(scope="module")
def small(data_dir):
    """Options of a training on 64 digits for one epoch."""
    place = data_dir.partition("=")[2]
    return {
        "data": "digits", "data_dir": place, "train_split": "train[:64]", "test_split": "test[:64]", "epochs": 1,
        "batch_size": 32,
    }  # fmt: skip


@pytest.fixture(scope="module")
def teacher(small, tmp_path_factory):
    return kd.train(model="mlp(hidden=(8,))", **small, run=tmp_path_factory.mktemp("api") / "teacher")


@pytest.fixture(scope="module")
def source(small):
    return data.load("digits", "train[:64]", small["data_dir"])


def weights(run):
    return run.model().get_weights()


def assert_equal(first, second, atol=0.0):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def test_two_calls_in_one_process_give_equal_networks(teacher, small, tmp_path):
    np.random.seed(5)
    keras.utils.set_random_seed(7)
    again = kd.train(model="mlp(hidden=(8,))", **small, run=tmp_path / "again")
    assert_equal(weights(teacher), weights(again), atol=1e-6)
    assert again.settings == teacher.settings and again.result["last"].keys() == teacher.result["last"].keys()


def test_a_complete_run_is_returned_and_another_recipe_is_refused(teacher, small):
    before = (teacher.path / "model.keras").read_bytes()
    assert kd.train(model="mlp(hidden=(8,))", **small, run=teacher.path).result == teacher.result
    with pytest.raises(ValueError, match=r"--epochs=1 \(before\), --epochs=2 \(now\)"):
        kd.train(model="mlp(hidden=(8,))", **{**small, "epochs": 2}, run=teacher.path)
    assert (teacher.path / "model.keras").read_bytes() == before


def test_an_interrupted_run_resumes_and_equals_a_whole_one(small, tmp_path, monkeypatch):
    options = {**small, "epochs": 4, "shift": 1}
    whole = kd.train(model="mlp(hidden=(8,), dropout=0.5)", **options, run=tmp_path / "whole")
    with interruption(monkeypatch, epoch=2):
        kd.train(model="mlp(hidden=(8,), dropout=0.5)", **options, run=tmp_path / "stopped")
    assert not kd.Run(tmp_path / "stopped").is_complete
    resumed = kd.train(model="mlp(hidden=(8,), dropout=0.5)", **options, run=tmp_path / "stopped")
    assert_equal(weights(whole), weights(resumed))
    assert resumed.history["loss"] == whole.history["loss"]


@pytest.mark.parametrize("earlier", [{"seconds": 1000.0}, {}])
def test_the_seconds_of_a_resumed_run_are_those_of_all_its_processes(small, tmp_path, monkeypatch, earlier):
    """The second case is a checkpoint of a version that did not count them."""
    options, begun = {**small, "epochs": 3, "model": "mlp(hidden=(8,))", "run": tmp_path / "run"}, time.perf_counter()
    with interruption(monkeypatch, epoch=2):
        kd.train(**options)
    state = read(tmp_path / "run" / "checkpoint")
    assert 0 < state.about.pop("seconds") < time.perf_counter() - begun
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    write(tmp_path / "run" / "checkpoint", state._replace(about={**state.about, **earlier}))
    begun = time.perf_counter()
    seconds = kd.train(**options).result["seconds"] - earlier.get("seconds", 0)
    assert 0 < seconds < time.perf_counter() - begun + 0.1  # the result is rounded


def test_a_wrong_request_creates_no_run(small, tmp_path):
    run = tmp_path / "run"
    wrong = [
        {"model": "mlq"}, {"model": 3}, {"epoch": 3}, {"weights": "nowhere.keras"}, {"data": "digit"},
        {"steps_per_execution": 3}, {"model": "nowhere.keras"}, {"data": np.zeros((3, 8, 8, 1))},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises((ValueError, TypeError)):
            kd.train(**{"model": "mlp(hidden=(8,))", **small, **options}, run=run)
        assert not run.exists(), options


def test_a_network_that_cannot_be_saved_is_refused_before_training(small, tmp_path):
    class Scaled(keras.layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, inputs):
            return self.function(inputs)

    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), Scaled(lambda x: x / 16), keras.layers.Dense(10)]
    with pytest.raises(ValueError, match="a network that Keras can save.*Object Scaled.*get_config"):
        kd.train(model=keras.Sequential(layers), **small, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_with_a_python_lambda_is_refused_before_training(small, tmp_path):
    """Keras saves it, but the complete run could not be loaded."""
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Lambda(lambda x: x / 16)]
    with pytest.raises(ValueError, match="that Keras can load, but received .*lambda.*register_keras_serializable"):
        kd.train(model=keras.Sequential([*layers, keras.layers.Dense(10)]), **small, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_functions_of_keras_and_permitted_lambdas_can_be_saved():
    check_savable(keras.Sequential([keras.Input((4,)), keras.layers.Lambda(keras.ops.relu)]))
    code = """
        import keras
        from kd_keras.networks.saving import check_savable
        keras.config.enable_unsafe_deserialization()
        check_savable(keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x / 2, output_shape=(4,))]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("form", ["run", "path", "text", "file", "model", "Teacher", "list"])
def test_a_teacher_in_every_form_teaches_the_same(form, teacher, small, tmp_path):
    file = teacher.path / "model.keras"
    forms = {
        "run": teacher, "path": teacher.path, "text": str(teacher.path), "file": file, "model": teacher.model(),
        "Teacher": kd.Teacher(teacher.model()), "list": [teacher],
    }  # fmt: skip
    student = kd.distill(
        teacher=forms[form], student="mlp(hidden=(4,))", methods=[methods.KD(temperature=2)], hard_weight=0.5, **small,
        run=tmp_path / "student",
    )  # fmt: skip
    expected = {"loss", "hard", "kd", "accuracy", "val_loss", "val_accuracy", "epoch"}
    assert set(student.result["last"]) == expected and student.result["hard_weight"] == 0.5
    assert student.result["teacher_accuracy"] == teacher.result["last"]["val_accuracy"]
    named = student.settings.get("teacher")
    assert named == (None if form in ("model", "Teacher") else str(file if form == "file" else teacher.path))


def test_the_published_hard_weight_is_the_default_and_recorded(teacher, small, tmp_path):
    student = kd.distill(teacher=teacher, student="mlp(hidden=(4,))", methods=["kd"], **small, run=tmp_path / "student")
    assert student.result["hard_weight"] == 0.1 and "kd" in student.result["hard_weight_reason"]
    assert "hard_weight" not in student.settings


def test_a_method_of_the_users_with_another_argument_is_another_run(teacher, small, tmp_path):
    class Scaled(methods.KD):
        def __init__(self, scale=1.0, **options):
            super().__init__(**options)
            self.scale = scale

    options = {**small, "teacher": teacher, "student": "mlp(hidden=(4,))", "run": tmp_path / "student"}
    kd.distill(methods=[Scaled(scale=1.0)], **options)
    assert kd.distill(methods=[Scaled(scale=1.0)], **options).is_complete
    with pytest.raises(ValueError, match=r"scale=1.0.*\(before\).*scale=8.0.*\(now\)"):
        kd.distill(methods=[Scaled(scale=8.0)], **options)


def test_label_smoothing_without_a_loss_on_the_labels_is_refused(teacher, small, tmp_path):
    options = {**small, "label_smoothing": 0.1, "student": "mlp(hidden=(4,))", "run": tmp_path / "student"}
    with pytest.raises(ValueError, match="label_smoothing=0.1 has no effect, because hard_weight=0"):
        kd.distill(teacher=teacher, hard_weight=0, **options)
    assert not (tmp_path / "student").exists()
    assert kd.distill(teacher=teacher, hard_weight=0.5, **options).is_complete


def test_a_keras_model_is_trained_and_written_down_as_a_comment(teacher, small, tmp_path):
    model = models.build("mlp", (8, 8, 1), 10, hidden=(8,))
    before = model.get_weights()
    run = kd.train(model=model, **small, run=tmp_path / "run")
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))
    assert_equal(model.get_weights(), weights(run))
    assert "# --model is not a flag of this run: a Keras model" in (run.path / "flags.txt").read_text()
    with pytest.raises(ValueError, match="10 classes"):
        kd.train(model=models.build("mlp", (8, 8, 1), 7), **small, run=tmp_path / "other")


def test_sources_and_datasets_train_like_the_name(teacher, source, small, tmp_path):
    options = {name: small[name] for name in ("epochs", "batch_size")}
    test = data.load("digits", "test[:64]", small["data_dir"])
    run = kd.train(model="mlp(hidden=(8,))", data=source, test_data=test, **options, run=tmp_path / "source")
    assert_equal(weights(teacher), weights(run), atol=1e-6)

    def as_dataset(source):
        return source.examples.map(lambda example: (example["image"], example["label"])).batch(10)

    run = kd.train(
        model="mlp(hidden=(8,))", data=as_dataset(source), test_data=as_dataset(test), **options,
        run=tmp_path / "dataset",
    )  # fmt: skip
    assert_equal(weights(teacher), weights(run), atol=1e-6)
    assert "# --data is not a flag of this run" in (run.path / "flags.txt").read_text()


def test_weights_bring_their_normalization(teacher, small, tmp_path):
    options = {**small, "learning_rate": 0.0, "normalization": "unit"}
    run = kd.train(model="mlp(hidden=(8,))", weights=teacher.path / "model.keras", **options, run=tmp_path / "run")
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(run.model()(images), teacher.model()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalization, mean, std", [("unit", 0.0, 255.0), ("symmetric", 127.5, 127.5)])
def test_a_network_starts_with_the_normalization_of_the_recipe(normalization, mean, std, small, tmp_path):
    options = {**small, "normalization": normalization, "learning_rate": 0.0}
    layer = kd.train(model="mlp(hidden=(8,))", **options, run=tmp_path / "run").model().get_layer("normalization")
    np.testing.assert_allclose(layer(np.full((1, 8, 8, 1), 200.0)), (200.0 - mean) / std, rtol=1e-6)


def test_precision_is_of_one_call_only(small, tmp_path):
    options = {**small, "precision": "mixed_bfloat16"}
    run = kd.train(model="mlp(hidden=(8,))", **options, run=tmp_path / "run")
    assert keras.config.dtype_policy().name == "float32"
    assert run.model().get_layer("logits").dtype_policy.name in ("mixed_bfloat16", "float32")
    assert any(layer.compute_dtype == "bfloat16" for layer in run.model().layers)
    again = kd.train(model="mlp(hidden=(8,))", **small, run=tmp_path / "again")
    assert all(layer.compute_dtype == "float32" for layer in again.model().layers)
    for given, precision, built in ((run, "float32", "mixed_bfloat16"), (again.model(), "mixed_float16", "float32")):
        with pytest.raises(ValueError, match=rf"in {precision}, but received a network built in {built}\. Pass prec"):
            kd.train(model=given, **{**small, "precision": precision}, run=tmp_path / "refused")
    assert kd.train(model=run, **options, run=tmp_path / "same").is_complete
    weights = run.path / "model.keras"
    float32 = kd.train(model="mlp(hidden=(8,))", weights=weights, **small, run=tmp_path / "float32")
    assert all(layer.compute_dtype == "float32" for layer in float32.model().layers)


def test_determinism_is_of_one_call_only():
    def draws_without_a_seed():
        tf.random.set_seed(None)
        tf.random.uniform((2,))

    with chosen_strategy(Recipe(deterministic=True)), pytest.raises(RuntimeError, match="determinism"):
        draws_without_a_seed()
    draws_without_a_seed()


def test_one_replica_equals_two(teacher, small, tmp_path):
    options = {**small, "strategy": "mirrored", "devices": 2}
    run = kd.train(model="mlp(hidden=(8,))", **options, run=tmp_path / "two")
    assert_equal(weights(teacher), weights(run), atol=1e-5)


def test_a_recording_is_made_verified_and_trained_from(teacher, small, tmp_path):
    views = {name: small[name] for name in ("data", "data_dir", "train_split", "batch_size")} | {"shift": 1, "views": 2}
    output = tmp_path / "recording"
    assert kd.record(teacher=teacher, output=output, shard=(0, 2), **views) is None
    recording = kd.record(teacher=teacher, output=output, shard=(1, 2), **views)
    assert (recording.views, recording.examples) == (2, 64)
    kd.record(output=output, verify=True, **views)
    options = {**small, "shift": 1, "views": 2, "student": "mlp(hidden=(4,))", "hard_weight": 0.1}
    live = kd.distill(teacher=teacher, **options, run=tmp_path / "live")
    recorded = kd.distill(recording=output, **options, run=tmp_path / "recorded")
    assert_equal(weights(live), weights(recorded), atol=1e-5)
    with pytest.raises(ValueError, match="views"):
        kd.distill(recording=output, **{**options, "views": 3}, run=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_teacher_of_another_range(teacher, small, tmp_path):
    inputs = keras.Input((8, 8, 1))
    unit = keras.Model(inputs, teacher.model()(keras.layers.Rescaling(255.0)(inputs)))
    student = kd.distill(
        teacher=unit, teacher_range=(0, 1), student="mlp(hidden=(4,))", **small, run=tmp_path / "student"
    )
    assert student.result["teacher_accuracy"] == teacher.result["last"]["val_accuracy"]
    assert student.settings["teacher_range"] == "0,1"


def test_what_does_not_go_together_is_refused(teacher, small, tmp_path):
    wrong = [
        ({}, "teacher= or recording="),
        ({"teacher": teacher, "methods": []}, "no method needs one"),
        ({"teacher": teacher, "methods": "kd"}, "must be a list"),
        ({"teacher": teacher, "method": "kd"}, "no option 'method': did you mean methods"),
        ({"teacher": 3}, "A teacher must be"),
        ({"teacher": kd.Teacher(teacher.model()), "combine": "logits"}, "without further options"),
        ({"teacher": teacher, "teacher_range": (1, 0)}, "teacher_range"),
    ]
    for options, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            kd.distill(student="mlp(hidden=(4,))", **small, **options, run=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_unlabeled_images_have_the_classes_of_the_test_images(tmp_path):
    random, level = np.random.default_rng(0), {"apple": 40, "bear": 128, "cat": 220}

    def write(place, names):
        for name in names:
            (place / name).mkdir(parents=True)
            for number in range(12):
                pixels = random.normal(level[name], 8, (8, 8)).clip(0, 255).astype("uint8")
                Image.fromarray(pixels).save(place / name / f"{number}.png")

    write(tmp_path / "data" / "train", level)
    write(tmp_path / "data" / "test", level)
    write(tmp_path / "two" / "test", ["bear", "cat"])
    (tmp_path / "unlabeled").mkdir()
    for number in range(36):
        pixels = random.normal(list(level.values())[number % 3], 8, (8, 8)).clip(0, 255).astype("uint8")
        Image.fromarray(pixels).save(tmp_path / "unlabeled" / f"{number}.png")
    options = {"epochs": 8, "batch_size": 12, "learning_rate": 0.05, "test_every": 8}
    teacher = kd.train(model="mlp(hidden=(16,))", data=tmp_path / "data", **options, run=tmp_path / "teacher")
    assert teacher.result["last"]["val_accuracy"] > 0.9
    for name, classes in (("data", list(level)), ("two", ["bear", "cat"])):
        student = kd.distill(
            teacher=teacher,
            student="mlp(hidden=(4,))",
            data=tmp_path / "unlabeled",
            test_data=tmp_path / name,
            hard_weight=0,
            **options,
            run=tmp_path / f"student_{name}",
        )
        assert student.result["data"]["class_names"] == classes and student.result["teacher_accuracy"] > 0.9
        assert student.model().output_shape == (None, len(classes))


def test_numbers_that_name_nothing_mean_none(small, tmp_path):
    run = kd.train(model="mlp(hidden=(4,))", **small, without_classes=[], run=tmp_path / "run")
    assert kd.evaluate(run).findings and "without_classes" not in run.settings
    with pytest.raises(ValueError, match=r"Recipe\(label_smoothing=...\) must be less than 1"):
        kd.train(model="mlp(hidden=(4,))", **small, label_smoothing=10, run=tmp_path / "other")
