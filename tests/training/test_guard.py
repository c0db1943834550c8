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
BAD[13] = np.nan  # the sixth example of the second batch of 8
OPTIONS = {"batch_size": 8, "shuffle": False, "verbose": 0}
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def distiller(**options):
    keras.utils.set_random_seed(0)
    return compiled(Distiller(student=convolutional(normalized=True)), **{"jit_compile": False} | options)


def test_a_run_stops_with_a_report_and_the_weights_before_the_step(tmp_path):
    model = distiller()
    rows = tf.data.Dataset.from_tensor_slices(({INPUTS: BAD, INDEX: np.arange(32)}, Y)).batch(8)
    guard = NonFinite("stop", tmp_path, lambda epoch, step: next(iter(rows.skip(step))))
    with pytest.raises(FloatingPointError, match=r"(?s)loss nan, hard nan in epoch 0, step 1.*nonfinite_0_1.npz"):
        model.fit(rows, callbacks=[guard], verbose=0)
    saved = np.load(tmp_path / "nonfinite_0_1.npz")
    assert (saved["epoch"], saved["step"], list(saved["terms"])) == (0, 1, ["loss", "hard"])
    assert np.isnan(saved["values"]).all() and list(saved["index"]) == list(range(8, 16))
    assert np.isnan(saved["images"][5]).all() and list(saved["label"]) == list(Y[8:16])
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
        entropy = keras.metrics.SparseCategoricalCrossentropy
        expected, model = (
            distiller(optimizer=kind(), metrics=["accuracy", entropy(from_logits=True, name="entropy")])
            for _ in range(2)
        )
    logs = expected.fit(X[without], Y[without], **OPTIONS).history
    with pytest.warns(UserWarning, match="Skipped a batch: loss nan"):
        history = model.fit(BAD, Y, callbacks=[NonFinite("skip")], **OPTIONS).history
    assert same(values(expected.student.variables), values(model.student.variables), atol=1e-7)
    assert same(values(expected.optimizer.variables), values(model.optimizer.variables), atol=1e-7)
    assert history.keys() == {"loss", "hard", "accuracy", "entropy"}
    for name, value in logs.items():  # also the metrics, of which one would be NaN
        assert history[name] == pytest.approx(value, rel=1e-6), name


class Explodes(keras.layers.Layer):
    """Has finite outputs and non-finite gradients: the square root at 0."""

    def call(self, x):
        return x + keras.ops.sqrt(keras.ops.relu(x) * 0)


def test_a_non_finite_gradient_stops_a_run():
    body = convolutional()
    model = compiled(Distiller(student=keras.Model(body.input, Explodes()(body.output))))
    before = values(model.student.variables)
    with pytest.raises(FloatingPointError, match=r"loss \d.*step 0"):
        model.fit(X, Y, **OPTIONS)
    assert same(before, values(model.student.variables))


@pytest.mark.parametrize("half", [False, True], ids=["plain", "scaled"])
def test_a_failure_on_one_replica_makes_all_replicas_skip(half):
    with mirrored(2).scope():
        keras.config.set_dtype_policy("mixed_float16" if half else "float32")
        model = distiller(optimizer=keras.optimizers.SGD(0.1))
    before = values(model.student.trainable_variables)
    with pytest.raises(FloatingPointError):
        model.fit(BAD[8:16], Y[8:16], **OPTIONS)
    assert same(before, values(model.student.trainable_variables))
    assert np.isfinite(model.fit(X, Y, **OPTIONS).history["loss"]).all()
    for variable in model.student.variables:
        copies = [np.array(copy) for copy in model.distribute_strategy.experimental_local_results(variable.value)]
        assert np.isfinite(copies).all()


def test_an_overflow_under_loss_scaling_is_not_reported_and_lowers_the_scale():
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**30)
    model = distiller(optimizer=optimizer)
    model.fit(X, Y, epochs=2, **OPTIONS)
    assert float(optimizer.dynamic_scale) < 2.0**30 and all(np.isfinite(values(model.student.variables)[0]).ravel())


def test_the_reported_step_counts_from_the_start_of_the_fit(tmp_path):
    model = distiller()
    batches = data.training(source(32), batch_size=8, shuffle=False).map(lambda x, y: (x * np.nan, y))
    guard = NonFinite("stop", tmp_path, start=(3, 2))
    with pytest.raises(FloatingPointError, match="epoch 3, step 2"):
        model.fit(batches, initial_epoch=3, epochs=4, steps_per_epoch=2, callbacks=[guard], verbose=0)
    with pytest.raises(ValueError, match="Did you mean skip"):
        NonFinite("skp")


def test_a_non_finite_teacher_has_a_separate_message():
    teacher = convolutional(6, name="teacher")
    teacher.get_layer("logits").bias.assign([np.nan] * 5)
    model = compiled(Distiller(student=convolutional(), teacher=teacher, methods=[KD()]))
    with pytest.raises(FloatingPointError, match="a teacher with finite outputs"):
        model.fit(X, Y, **OPTIONS)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "loss scaling"])
def test_gradients_are_clipped_after_their_sum_over_replicas(clip, scaled):
    steps = []
    for replicas in (1, 2):
        with mirrored(replicas).scope() if replicas > 1 else contextlib.nullcontext():
            optimizer = keras.optimizers.SGD(1.0, **{clip: 0.01})
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0) if scaled else optimizer
            keras.utils.set_random_seed(0)
            model = compiled(Distiller(student=convolutional()), optimizer=optimizer, jit_compile=False)
        before = values(model.student.trainable_variables)
        model.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
        steps.append([new - old for new, old in zip(values(model.student.trainable_variables), before, strict=True)])
    assert same(*steps, atol=1e-6)
    largest = max(np.abs(step).max() for step in steps[0])
    norm = np.sqrt(sum(np.square(step).sum() for step in steps[0]))
    assert {"clipnorm": norm > 0.01, "global_clipnorm": norm <= 0.010001, "clipvalue": largest <= 0.010001}[clip]


class Centering(keras.layers.Layer):
    """Subtracts a moving mean, a scalar that the layer itself changes in training."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, inputs, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(inputs))
        return inputs - self.mean


@pytest.mark.parametrize("kind", [lambda: keras.layers.BatchNormalization(renorm=True), Centering])
def test_a_skipped_batch_changes_no_state_of_any_layer(kind):
    image = keras.Input(X.shape[1:])
    student = keras.Model(image, keras.layers.Dense(int(Y.max()) + 1)(keras.layers.Flatten()(kind()(image))))
    model = compiled(Distiller(student=student), jit_compile=False)
    model.fit(X[:8], Y[:8], **OPTIONS)
    before = values(student.variables)
    with pytest.warns(UserWarning, match="Skipped a batch"), pytest.raises(FloatingPointError):
        model.fit(BAD[8:16], Y[8:16], callbacks=[NonFinite("skip")], **OPTIONS)
    assert same(before, values(student.variables))


def test_accumulation_needs_one_replica():
    with mirrored(2).scope():
        model = distiller(optimizer=keras.optimizers.SGD(1.0, gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="accumulates gradients must run on one replica, but received 2 replicas"):
        model.fit(X, Y, **OPTIONS)


def test_clipping_with_accumulation_needs_one_replica():
    with mirrored(2).scope():
        model = distiller(optimizer=keras.optimizers.SGD(1.0, clipnorm=0.1, gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="clips and accumulates gradients must run on one replica"):
        model.fit(X, Y, **OPTIONS)
