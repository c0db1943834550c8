"""The harness: every file in kd_keras/methods keeps the contract."""

import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, methods
from tests import harness
from tests.networks import CLASSES, compiled, convolutional, examples, mirrored, same, values

NAMES = harness.method_files()
CLASSES_OF_ALL = [kind for name in NAMES for kind in harness.classes(name)]
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")


@pytest.mark.parametrize("name", NAMES)
def test_the_file(name):
    module = harness.module(name)
    assert re.search(r"\d{4}\.\d{4,5}", module.__doc__), "the docstring names no paper"
    assert f"{name}_loss" in methods.__all__ and harness.classes(name)
    assert (Path(__file__).parent / f"test_{name}.py").exists(), "a method without a test of its own"
    for kind in harness.classes(name):
        assert kind.__name__ in methods.__all__
    for loss in harness.losses(name):
        assert list(inspect.signature(loss).parameters)[:2] == ["student", "teacher"]
        assert ">>>" in loss.__doc__ and "(B" in loss.__doc__


def distilled(kind, seed=0, normalised=False, **options):
    keras.utils.set_random_seed(seed)
    student, teacher = convolutional(4, normalised=normalised), convolutional(6, name="teacher")
    return compiled(Distiller(student=student, teacher=teacher, methods=[kind()]), **options)


@pytest.mark.parametrize("kind", CLASSES_OF_ALL)
def test_it_trains_and_moves_the_student(kind):
    distiller = distilled(kind)
    distiller.hard_weight = 0  # so that the method alone moves it
    before = values(distiller.student.trainable_variables)
    history = distiller.fit(*examples(), epochs=3, verbose=0).history
    assert np.isfinite(history[kind.__name__.lower()]).all()
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, values(distiller.student.trainable_variables)))


@pytest.mark.parametrize("kind", CLASSES_OF_ALL)
def test_its_configuration_and_weight_come_back(kind):
    again = harness.reload(kind(weight=0.25))
    assert type(again) is kind and again.weight == 0.25 and again.get_config() == kind(weight=0.25).get_config()
    schedule = keras.optimizers.schedules.CosineDecay(1.0, 10)
    assert harness.reload(kind(weight=schedule)).weight.get_config() == schedule.get_config()
    with pytest.raises(TypeError, match="weight"):
        kind(weight="much")


@pytest.mark.parametrize("kind", CLASSES_OF_ALL)
def test_saved_loaded_and_gone_on_with(kind, tmp_path):
    distiller = distilled(kind, normalised=True)
    x, y = examples()
    distiller.fit(x, y, epochs=2, shuffle=False, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    again.attach(distiller._teacher.networks[0])
    one, other = (d.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"] for d in (distiller, again))
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert same(values(distiller.variables), values(again.variables), atol=1e-6)


@pytest.mark.parametrize("kind", CLASSES_OF_ALL)
def test_xla_and_eager_agree(kind):
    results = []
    for options in ({"jit_compile": True}, {"run_eagerly": True}):
        distiller = distilled(kind, **options)
        distiller.fit(*examples(), batch_size=16, shuffle=False, verbose=0)
        results.append(values(distiller.trainable_variables))
    assert same(*results, atol=2e-5)


@pytest.mark.parametrize("kind", CLASSES_OF_ALL)
@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_replicas_make_the_same_update(kind, replicas):
    """Without BatchNorm, which sees one replica's part of the batch; so the adapters are the identity here."""
    x, y = examples(37 if replicas == 2 else 40)  # in batches of 16, the last uneven over two replicas: 3 and 2
    results = []
    for devices in (1, replicas):
        with mirrored(devices).scope():
            keras.utils.set_random_seed(0)
            student, teacher = convolutional(4), convolutional(4, name="teacher")
            distiller = compiled(Distiller(student=student, teacher=teacher, methods=[kind()]))
        history = distiller.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=2, verbose=0).history
        evaluated = distiller.evaluate(x, y, verbose=0, return_dict=True)
        results.append((values(student.variables), history, evaluated))
    (weights, history, evaluated), (others, history_of_all, evaluated_by_all) = results
    assert same(weights, others, atol=1e-5)
    for name, logged in history.items():
        np.testing.assert_allclose(logged, history_of_all[name], rtol=1e-4, err_msg=name)
    assert evaluated == pytest.approx(evaluated_by_all, rel=1e-4)


@pytest.mark.parametrize("kind", CLASSES_OF_ALL)
def test_half_precision(kind):
    keras.config.set_dtype_policy("mixed_float16")
    distiller = distilled(kind)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    history = distiller.fit(*examples(), epochs=20, verbose=0).history  # the first ones find the loss scale
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("kind", CLASSES_OF_ALL)
def test_finite_at_the_edges(kind):
    x, y = examples()
    distiller = distilled(kind)
    distiller.compile(optimizer=keras.optimizers.SGD(1e-9), loss=distiller.loss)
    edges = {"zeros": 0 * x, "one example": x[:1], "the same twice": np.repeat(x[:1], 32, 0), "large": 1e4 * x}
    for edge, images in edges.items():
        logged = distiller.fit(images, y[: len(images)], batch_size=32, verbose=0).history
        assert np.isfinite(logged[kind.__name__.lower()]).all(), edge
        assert all(np.isfinite(value).all() for value in values(distiller.variables)), edge


def test_the_harness_found_them():
    assert {"kd", "fitnet"} <= set(NAMES) and CLASSES == 5
