"""Every file in kd_keras/methods keeps the contract of a method."""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import methods
from kd_keras.methods import listing
from tests.support import harness
from tests.support.networks import CLASSES, same, values

NAMES = harness.method_files()
KINDS = [kind for name in NAMES for kind in harness.classes(name)]
CASES = [pytest.param(case, id=f"{name}-{case.name}") for name, case in harness.cases()]
every = pytest.mark.parametrize("kind", KINDS)
# One method of each kind of machinery: logits, labels, adapters, margins, several levels, relations over the batch, a
# memory, a rebuilt student, several exits, two stages. What follows from the machinery is tested with all other methods
# by `-m slow`; what is a method's own is tested with every method.
REPRESENTATIVE = ("KD", "FitNet", "OFD", "ReviewKD", "RKD", "CRD", "SimKD", "BYOT", "FT")
machinery = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k.__name__ in REPRESENTATIVE else pytest.mark.slow) for k in KINDS]
)
PAPER = r"\d{4}\.\d{4,5}|CVPR|ECCV|ICCV|ICLR|AAAI|NeurIPS"
QUIET = ("Gradients do not exist", "The teacher is right", ".*shuffle")
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in QUIET]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_names_its_paper_and_exports_its_loss(name):
    module = harness.module(name)
    assert re.search(PAPER, module.__doc__), "the docstring names no paper"
    assert f"{name}_loss" in methods.__all__ and harness.classes(name) and harness.tests_of(name).CASES
    for kind in harness.classes(name):
        assert kind.__name__ in methods.__all__ and kind.family
        assert re.search(rf"^\D+ \d{{4}}, ({PAPER})$", kind.paper), f"{kind.__name__}.paper: {kind.paper!r}"
        assert kind.__doc__ and "**options" not in str(inspect.signature(kind))
    for loss in harness.losses(name):
        assert list(inspect.signature(loss).parameters)[:2] == ["student", "teacher"]
        assert ">>>" in loss.__doc__ and "(B" in loss.__doc__


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(case, record_property):
    value_error, gradient_error = case.value_error(), case.gradient_error()
    record_property("value_error", value_error)  # scripts/reproduce/methods_table.py prints what is recorded
    record_property("gradient_error", gradient_error)
    assert value_error < 1e-5 and gradient_error < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_finite_in_edge_cases(case):
    for edge, (student, others) in case.edges().items():
        assert np.isfinite(case.loss(student, *others)).all(), edge
        assert all(np.isfinite(gradient).all() for gradient in case.gradients(student, others)), edge


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(case, dtype):
    def rounded(array):
        return tf.cast(array, dtype) if np.issubdtype(np.asarray(array).dtype, np.floating) else array

    halves = keras.tree.map_structure(rounded, (case.student, case.others))
    floats = keras.tree.map_structure(lambda x: tf.cast(x, "float32") if tf.is_tensor(x) else x, halves)
    value, expected = (np.asarray(case.loss(student, *others)) for student, others in (halves, floats))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("name, case", harness.cases())
def test_nan_is_not_hidden(name, case):
    if name == "kdsvd":
        pytest.skip("as published, KDSVD makes entries that are not finite zero, because eigenvectors have none")
    sides = keras.tree.flatten((case.student, case.others))
    for place, array in enumerate(sides):
        if not np.issubdtype(np.asarray(array).dtype, np.floating):
            continue
        spoiled = [np.full_like(side, np.nan) if number == place else side for number, side in enumerate(sides)]
        student, others = keras.tree.pack_sequence_as((case.student, case.others), spoiled)
        computed = [case.loss(student, *others), *case.gradients(student, others)]
        assert not all(np.isfinite(value).all() for value in computed), f"input {place} of {len(sides)}"


@every
def test_the_configuration_and_the_weight_are_restored(kind):
    reloaded = harness.reload(harness.method(kind, weight=0.25))
    config = harness.method(kind, weight=0.25).get_config()
    assert type(reloaded) is kind and reloaded.weight == 0.25 and reloaded.get_config() == config
    schedule = keras.optimizers.schedules.CosineDecay(1.0, 10)
    assert harness.reload(harness.method(kind, weight=schedule)).weight.get_config() == schedule.get_config()
    by_epoch = harness.reload(harness.method(kind, weight={0: 1, 3: 0.5})).weight
    assert by_epoch.values == [(0, 1.0), (3, 0.5)]
    with pytest.raises(TypeError, match="weight"):
        harness.method(kind, weight="much")


@every
def test_the_signature_shows_all_arguments_and_the_defaults_of_the_class(kind):
    parameters = inspect.signature(kind).parameters
    assert set(parameters) == set(harness.method(kind).get_config())
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    given = {name: getattr(harness.method(kind), name) for name in required}
    method = kind(**given)
    assert parameters["weight"].default == kind.default_weight == method.weight
    assert parameters["name"].default is None and method.name == kind.__name__.lower()
    if {"student_tap", "teacher_tap"} <= set(parameters):
        assert (parameters["student_tap"].default, parameters["teacher_tap"].default) == kind.taps == method.taps
    with pytest.raises(TypeError, match="wait"):
        kind(**given, wait=1.0)


@every
def test_it_trains_the_student_and_resumes_from_a_file(kind, tmp_path):
    distiller = harness.distiller(kind)
    distiller.hard_weight = 0  # so that only the method trains the student
    before = values(distiller.student.trainable_variables)
    x, y = harness.batch(kind)
    history = distiller.fit(x, y, epochs=3, shuffle=False, verbose=0).history
    assert np.isfinite(history[distiller.methods[0].name]).all()
    after = values(distiller.student.trainable_variables)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True)) == kind.trains_student
    distiller.save(tmp_path / "distiller.keras")
    resumed = keras.saving.load_model(tmp_path / "distiller.keras")
    resumed.jit_compile = False
    if distiller.methods[0].taps.teacher:
        resumed.attach(distiller.teacher.networks[0])
    losses = [model.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"] for model in (distiller, resumed)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert same(values(distiller.variables), values(resumed.variables), atol=1e-6)


@machinery
def test_xla_and_eager_agree(kind):
    results = []
    for options in ({"jit_compile": True}, {"run_eagerly": True}):
        distiller = harness.distiller(kind, **options)
        distiller.fit(*harness.batch(kind), batch_size=16, shuffle=False, verbose=0)
        results.append(values(distiller.trainable_variables))
    assert same(*results, atol=2e-5)


@machinery
@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_replicas_compute_the_same_update_as_one(kind, replicas, record_property):
    weights, metrics = harness.replicas_difference(kind, replicas, count=37 if replicas == 2 else 40)
    record_property("weight_difference", weights)
    # SRRL's BatchNorm of nearly equal embeddings multiplies rounding: two ulps of its images move a weight by 5e-5.
    assert weights < 1e-5 or weights < 3 * harness.rounding_difference(kind)
    assert metrics < 1e-4


@machinery
def test_half_precision(kind):
    keras.config.set_dtype_policy("mixed_float16")
    distiller = harness.distiller(kind)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    history = distiller.fit(*harness.batch(kind), epochs=20, verbose=0).history  # the first ones find the loss scale
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]


@machinery
def test_training_is_finite_in_edge_cases(kind):
    x, y = harness.batch(kind)
    distiller = harness.distiller(kind, optimizer=keras.optimizers.SGD(1e-9))
    images = x["kd_inputs"] if kind.needs_index else x
    edges = {
        "zeros": 0 * images,
        "equal images": np.repeat(images[:1], 32, 0),
        "large values": 1e4 * images,
        "one example": images[:1] if distiller.methods[0].least_examples == 1 else images[:17],  # the last batch
    }
    for edge, edge_images in edges.items():
        count, batch_size = len(edge_images), 16 if edge == "one example" else 32
        inputs = {"kd_inputs": edge_images, "kd_index": x["kd_index"][:count]} if kind.needs_index else edge_images
        labels = keras.tree.map_structure(lambda array, rows=count: array[:rows], y)
        logged = distiller.fit(inputs, labels, batch_size=batch_size, verbose=0).history
        assert np.isfinite(logged[distiller.methods[0].name]).all(), edge
        assert all(np.isfinite(value).all() for value in values(distiller.variables)), edge


def test_all_methods_are_enrolled():
    assert len(NAMES) >= 33 and len(KINDS) >= 36 and len(CASES) >= 126 and CLASSES == 5
    assert {kind.__name__ for kind in KINDS} == {kind.__name__ for kind in listing.list_kinds()}
