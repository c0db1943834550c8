"""Run: a directory that is new, resumed, refused, complete or damaged; and its settings as a flagfile."""

import dataclasses

import keras
import numpy as np
import pytest

from kd_keras.runs import Recipe, Run, find_run, load_network, recorded_data
from kd_keras.runs.recipe import DEFAULTS, make_recipe
from kd_keras.runs.settings import GivenObject, Settings, from_lines, to_lines
from tests.support.programs import program


@pytest.fixture
def settings():
    return Settings({"epochs": 3, "flip": True, "method": ["kd", "at"], "views": None}, {"epochs": 30, "flip": False})


def started(path, settings):
    run = Run.prepare(path, settings)
    run.begin()
    return run


@pytest.fixture
def run(tmp_path, settings):
    return started(tmp_path / "run", settings)


def finish(run, accuracy=0.5):
    (run.path / "metrics.csv").write_text(f"epoch,loss,val_accuracy\n0,2.0,NA\n1,1.0,{accuracy}\n")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    run.finish(model, {**run.final_metrics(), "data": {"classes": 3}}, lambda: None)


def test_preparing_writes_nothing(tmp_path, settings):
    Run.prepare(tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_a_run_is_opened_with_its_settings(run):
    assert run.settings == {"epochs": "3", "flip": "true", "method": ["kd", "at"]}
    assert Run(run.path).settings == run.settings and not Run(run.path).is_complete


def test_a_complete_run_has_model_result_and_history(run):
    finish(run)
    opened = Run(run.path)
    assert opened.is_complete and opened.result["best_val_accuracy"] == 0.5 and opened.result["last"]["loss"] == 1.0
    assert opened.history["loss"] == [2.0, 1.0] and opened.history["val_accuracy"][1] == 0.5
    assert opened.model().output_shape == opened.best_model().output_shape == (None, 3)
    for source in (opened, opened.path, str(opened.path), opened.path / "model.keras", opened.model()):
        assert load_network(source).output_shape == (None, 3)
    assert find_run(opened.path / "model.keras").path == opened.path and recorded_data(opened) == {"classes": 3}


def test_a_finished_model_has_its_last_weights(run):
    (run.path / "metrics.csv").write_text("epoch,loss,val_accuracy\n0,2.0,0.5\n1,1.0,0.4\n")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    last = [2 * np.ones((2, 3)), np.ones(3)]
    model.set_weights(last)
    run.finish(model, run.final_metrics(), lambda: model.set_weights([np.zeros((2, 3)), np.zeros(3)]))
    for array, expected, of_best in zip(model.get_weights(), last, run.best_model().get_weights(), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert not of_best.any()


def test_a_resumed_run_writes_metrics_under_the_names_of_its_first_epoch(run):
    epochs = [{"loss": 3.0, "kd": 0.3}, {"loss": 2.0, "kd": 0.2, "val_loss": 2.5}]
    for epoch, metrics in enumerate(epochs):  # each in a training of its own, the second one with a test
        (file, _) = run.loggers(epoch)
        file.on_train_begin()
        file.on_epoch_end(epoch, metrics)
        file.on_train_end()
    second = {name: values[1] for name, values in run.history.items() if values[1] == values[1]}
    assert second == {"epoch": 1.0, **epochs[1]} and run.history["kd"] == [0.3, 0.2]


def test_no_run_and_no_result(run, tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        Run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not complete"):
        _ = run.result
    with pytest.raises(ValueError, match="Train it first"):
        load_network(tmp_path / "nowhere")
    assert find_run(tmp_path / "model.keras") is None and recorded_data(tmp_path / "model.keras") == {}


def test_the_networks_of_an_incomplete_run_are_refused(run):
    """The run was killed between its networks and its result, which has the names of the classes."""
    finish(run)
    (run.path / "peer1.keras").write_bytes((run.path / "model.keras").read_bytes())
    (run.path / "result.json").unlink()
    for source in (run, run.path, str(run.path), run.path / "model.keras", run.path / "best.keras"):
        with pytest.raises(ValueError, match="is not complete: it has no result.json. Resume it with the same command"):
            load_network(source)
    for load in (run.model, run.best_model):
        with pytest.raises(ValueError, match="is not complete"):
            load()
    assert load_network(run.path / "peer1.keras").output_shape == (None, 3)


def test_a_torn_result_is_named(run):
    finish(run)
    file = run.path / "result.json"
    file.write_text(file.read_text()[:20])
    with pytest.raises(ValueError, match="result.json is damaged"):
        _ = Run(run.path).result


def test_other_settings_are_refused_with_what_differs(run, settings):
    other = Settings({**settings.values, "epochs": 4}, settings.defaults)
    with pytest.raises(ValueError, match=r"--epochs=3 \(before\), --epochs=4 \(now\)"):
        Run.prepare(run.path, other)
    swapped = Settings({**settings.values, "method": ["at", "kd"]}, settings.defaults)
    with pytest.raises(ValueError, match="another order"):
        Run.prepare(run.path, swapped)
    assert Run.prepare(run.path, settings).settings == run.settings


def test_overwrite_deletes_a_run_and_nothing_else(run, settings, tmp_path):
    again = Run.prepare(run.path, settings, overwrite=True)
    assert run.path.exists() and not again.is_complete  # it is not deleted before the new one can begin
    again.delete_earlier()
    assert not run.path.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not a run and not empty"):
        Run.prepare(tmp_path / "mine", settings, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_overwrite_refuses_to_delete_other_runs(run, settings):
    """Students are often kept in the directory of their teacher, at any depth."""
    finish(run)
    students = [run.path / "students" / name for name in ("a", "b")]
    for path in students:
        finish(started(path, settings))
    with pytest.raises(ValueError, match=rf"{run.path} contains the run {students[0]} and 1 more\. Move or delete"):
        Run.prepare(run.path, settings, overwrite=True)
    assert all(Run(path).is_complete for path in (run.path, *students))
    Run.prepare(run.path, settings)  # only what overwrites them is refused
    Run.prepare(students[0], settings, overwrite=True).delete_earlier()
    assert not students[0].exists() and Run(students[1]).is_complete


def test_a_run_may_be_older_than_a_flag(run, settings):
    newer = Settings({**settings.values, "shift": 0}, {**settings.defaults, "shift": 0})
    Run.prepare(run.path, newer)
    with pytest.raises(ValueError, match=r"--shift=1 \(now\)"):
        Run.prepare(run.path, Settings({**newer.values, "shift": 1}, newer.defaults))


def test_what_is_no_flag_becomes_a_comment(tmp_path):
    settings = Settings({"model": GivenObject("a Keras model"), "epochs": 3}, {})
    run = Run.prepare(tmp_path / "run", settings)
    run.begin()
    text = (run.path / "flags.txt").read_text()
    assert text.startswith("# --model is not a flag of this run: a Keras model") or "\n# --model" in text
    assert run.settings == {"epochs": "3"}
    Run.prepare(run.path, settings)
    with pytest.raises(ValueError, match="a larger model"):
        Run.prepare(run.path, Settings({"model": GivenObject("a larger model"), "epochs": 3}, {}))


def test_a_recipe_goes_through_a_flagfile_unchanged():
    changed = Recipe(
        data="cifar10", data_dir="/data", without_classes=(3,), test_data="other", image_size=(8, 9), views=2,
        flip=True, normalization=((1.5,), (2.0,)), rand_augment=(2, 9), mixup=0.5, devices=2,
        class_names=("sky", "a road"), ignored=(11, 255), scale=(0.5, 2.0),
        strategy="mirrored", seed=7,
        on_nonfinite="skip", precision="mixed_bfloat16", warmup_epochs=0.5, drop_remainder=True,
    )  # fmt: skip
    for plan in (Recipe(), changed):
        lines = Settings(plan.settings(), DEFAULTS).lines()
        assert Recipe.from_settings(from_lines(lines)) == plan


def test_every_field_of_a_recipe_has_a_flag():
    text = program("train", "--help").stdout
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name}:" in text or f"--[no]{field.name}:" in text or f"--{field.name} " in text, field.name


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"epochs": 1.5}, ValueError, "epochs"),
        ({"batch_size": "32"}, TypeError, "batch_size"),
        ({"epoch": 3}, TypeError, "epochs"),
        ({"flip": 1}, TypeError, "flip"),
        ({"optimizer": "sdg"}, ValueError, "Did you mean sgd"),
        ({"image_size": (8,)}, ValueError, "image_size"),
        ({"mixup": -1.0}, ValueError, "mixup"),
        ({"keep": 1}, ValueError, "keep"),
        ({"normalization": "fitted"}, ValueError, "normalization"),
        ({"warmup_epochs": 1, "schedule": "steps"}, ValueError, "schedule"),
        ({"warmup_epochs": 3, "epochs": 3}, ValueError, "warm-up shorter than the training of epochs=3"),
    ],
)
def test_a_wrong_recipe_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        make_recipe(**options)


def test_lines_and_settings_are_inverse():
    for name, value, text in (("flip", False, "false"), ("image_size", (3, 4), "3,4"), ("method", ["kd"], "kd")):
        assert from_lines(to_lines(name, value)) == {name: text}
