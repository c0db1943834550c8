"""A non-finite step stops a run or is skipped, and leaves weights and statistics unchanged on every replica."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, data
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.methods import KD
from kd_keras.training import NonFinite
from tests.support.networks import compiled, convolutional, examples, mirrored, same, source, values

X, Y = examples(32)
BAD = X.copy()
BAD[13] = np.nan  # the sixth of the second batch of 8
OPTIONS = {"batch_size": 8, "shuffle": False, "verbose": 0}
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def distiller(**options):
    keras.utils.set_random_seed(0)
    return compiled(Distiller(student=convolutional(normalized=True)), **{"jit_compile": False} | options)


def test_a_run_stops_with_a_report_and_the_weights_before_the_step(tmp_path):
    made = distiller()
    rows = tf.data.Dataset.from_tensor_slices(({INPUTS: BAD, INDEX: np.arange(32)}, Y)).batch(8)
    guard = NonFinite("stop", tmp_path, lambda epoch, step: next(iter(rows.skip(step))))
    with pytest.raises(FloatingPointError, match=r"(?s)loss nan, hard nan in epoch 0, step 1.*nonfinite_0_1.npz"):
        made.fit(rows, callbacks=[guard], verbose=0)
    found = np.load(tmp_path / "nonfinite_0_1.npz")
    assert (found["epoch"], found["step"], list(found["terms"])) == (0, 1, ["loss", "hard"])
    assert np.isnan(found["values"]).all() and list(found["index"]) == list(range(8, 16))
    assert np.isnan(found["images"][5]).all() and list(found["label"]) == list(Y[8:16])
    healthy = distiller(optimizer=keras.optimizers.SGD(0.1))
    healthy.fit(X[:8], Y[:8], **OPTIONS)
    again = distiller(optimizer=keras.optimizers.SGD(0.1))
    with pytest.raises(FloatingPointError):
        again.fit(BAD[:16], Y[:16], **OPTIONS)  # the guard that fit adds
    assert same(values(healthy.student.variables), values(again.student.variables))


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    "kind", [lambda: keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.AdamW], ids=["sgd", "adamw"]
)
def test_a_run_that_skips_a_batch_equals_one_without_it(kind, replicas):
    without = np.r_[0:8, 16:32]
    with mirrored(replicas).scope() if replicas > 1 else contextlib.nullcontext():
        expected, made = (distiller(optimizer=kind()) for _ in range(2))
    logs = expected.fit(X[without], Y[without], **OPTIONS).history
    with pytest.warns(UserWarning, match="Skipped a batch: loss nan"):
        history = made.fit(BAD, Y, callbacks=[NonFinite("skip")], **OPTIONS).history
    assert same(values(expected.student.variables), values(made.student.variables), atol=1e-7)
    assert same(values(expected.optimizer.variables), values(made.optimizer.variables), atol=1e-7)
    assert history["loss"] == pytest.approx(logs["loss"], rel=1e-6)


class Explodes(keras.layers.Layer):
    """Finite itself, with a gradient that is not: the square root at 0."""

    def call(self, x):
        return x + keras.ops.sqrt(keras.ops.relu(x) * 0)


def test_a_gradient_that_is_not_finite():
    body = convolutional()
    made = compiled(Distiller(student=keras.Model(body.input, Explodes()(body.output))))
    before = values(made.student.variables)
    with pytest.raises(FloatingPointError, match=r"loss \d.*step 0"):
        made.fit(X, Y, **OPTIONS)
    assert same(before, values(made.student.variables))


@pytest.mark.parametrize("half", [False, True], ids=["plain", "scaled"])
def test_one_replica_is_enough_and_all_skip_together(half):
    with mirrored(2).scope():
        keras.config.set_dtype_policy("mixed_float16" if half else "float32")
        made = distiller(optimizer=keras.optimizers.SGD(0.1))
    before = values(made.student.trainable_variables)
    with pytest.raises(FloatingPointError):
        made.fit(BAD[8:16], Y[8:16], **OPTIONS)
    assert same(before, values(made.student.trainable_variables))
    assert np.isfinite(made.fit(X, Y, **OPTIONS).history["loss"]).all()
    for variable in made.student.variables:
        copies = [np.array(each) for each in made.distribute_strategy.experimental_local_results(variable.value)]
        assert np.isfinite(copies).all()


def test_an_overflow_under_loss_scaling_is_not_reported_and_lowers_the_scale():
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**30)
    made = distiller(optimizer=optimizer)
    made.fit(X, Y, epochs=2, **OPTIONS)
    assert float(optimizer.dynamic_scale) < 2.0**30 and all(np.isfinite(values(made.student.variables)[0]).ravel())


def test_the_position_counts_from_where_a_fit_begins(tmp_path):
    made = distiller()
    batches = data.training(source(32), batch_size=8, shuffle=False).map(lambda x, y: (x * np.nan, y))
    guard = NonFinite("stop", tmp_path, start=(3, 2))
    with pytest.raises(FloatingPointError, match="epoch 3, step 2"):
        made.fit(batches, initial_epoch=3, epochs=4, steps_per_epoch=2, callbacks=[guard], verbose=0)
    with pytest.raises(ValueError, match="did you mean skip"):
        NonFinite("skp")


def test_a_teacher_that_is_not_finite_has_its_own_message():
    teacher = convolutional(6, name="teacher")
    teacher.get_layer("logits").bias.assign([np.nan] * 5)
    made = compiled(Distiller(student=convolutional(), teacher=teacher, methods=[KD()]))
    with pytest.raises(FloatingPointError, match="a teacher with finite outputs"):
        made.fit(X, Y, **OPTIONS)
