"""The logs without labels, after a non-finite step, and with another teacher in the middle of a fit."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.methods import CRD, KD
from kd_keras.training import NonFinite
from tests.support.networks import compiled, convolutional, examples, mirrored, same, values
from tests.support.reference import log_softmax, softmax

X, Y = examples(16)
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def distiller(*methods, hard_weight=0.0, **options):
    keras.utils.set_random_seed(0)
    model = Distiller(
        student=convolutional(normalized=True),
        teacher=convolutional(6, name="teacher"),
        methods=list(methods or [KD()]),
        hard_weight=hard_weight,
    )
    return compiled(model, **{"jit_compile": False} | options)


def kd(model, x):
    student, teacher = (np.array(net(x), "float64") / 4 for net in (model.student, model.teacher.networks[0]))
    return 16 * (softmax(teacher) * (log_softmax(teacher) - log_softmax(student))).sum(-1).mean()


def test_validation_without_labels_is_that_of_the_methods():
    model = distiller(loss=None, metrics=None)
    history = model.fit(X, validation_data=(X[:6],), epochs=2, verbose=0).history
    assert history.keys() == {"kd", "loss", "val_kd", "val_loss"}
    assert history["val_kd"][-1] == pytest.approx(kd(model, X[:6]), rel=1e-4)
    assert history["val_loss"][-1] == pytest.approx(0.9 * history["val_kd"][-1], rel=1e-5)
    before = values(model.variables)
    logs = model.evaluate(X, verbose=0, return_dict=True)
    tracked = {id(variable) for metric in model.metrics for variable in metric.variables}
    pairs = [(a, np.array(b)) for a, b in zip(before, model.variables, strict=True) if id(b) not in tracked]
    assert logs["kd"] == pytest.approx(kd(model, X), rel=1e-4) and all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("methods", "match"),
    [
        (list, "labels, but the batch has none, and there is no method"),
        (lambda: [CRD(examples=16, negatives=4)], "the memory or the statistics of crd"),
    ],
)
def test_validation_that_cannot_work_is_refused_before_the_first_step(methods, match):
    model = Distiller(student=convolutional(), teacher=convolutional(6, name="teacher"), methods=methods())
    model.compile("sgd", "sparse_categorical_crossentropy")
    steps = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    with pytest.raises(ValueError, match=match):
        model.fit(X, Y, validation_data=(X,), callbacks=[count], verbose=0)
    assert not steps


def test_labelled_validation_without_loss_and_metrics_is_refused_before_the_first_step():
    model = distiller(loss=None, metrics=None)
    before = values(model.student.variables)
    with pytest.raises(ValueError, match="a loss or metrics"):
        model.fit(X, validation_data=(X, Y), verbose=0)
    assert same(before, values(model.student.variables))


@pytest.mark.parametrize("replicas", [1, 2])
def test_metrics_wait_for_labels(replicas):
    with mirrored(2).scope() if replicas == 2 else contextlib.nullcontext():
        model = distiller()
    history = model.fit(X, validation_data=(X, Y), epochs=2, verbose=0).history
    assert history.keys() == {"kd", "loss", "val_accuracy", "val_loss"}
    assert model.fit(X, Y, verbose=0).history.keys() == {"accuracy", "kd", "loss"}
    assert model.fit(X, verbose=0).history.keys() == {"kd", "loss"}


def test_a_non_finite_batch_is_an_error_in_a_loop_of_ones_own():
    model = distiller(hard_weight=1.0)
    before = values(model.student.variables)
    with pytest.raises(FloatingPointError, match="loss nan, hard nan, kd nan. The batch changed no variable"):
        model.train_on_batch(np.where(np.arange(16)[:, None, None, None] == 3, np.nan, X), Y)
    assert same(before, values(model.student.variables))
    assert np.isfinite(model.train_on_batch(X, Y, return_dict=True)["loss"])


def test_an_epoch_without_a_finite_step_is_not_skipped():
    with pytest.warns(UserWarning, match="Skipped"), pytest.raises(FloatingPointError, match="no step of epoch 0"):
        distiller(hard_weight=1.0).fit(X * np.nan, Y, batch_size=8, callbacks=[NonFinite("skip")], verbose=0)


def test_validation_without_labels_but_with_weights():
    weights = np.linspace(0.5, 2, 16).astype("float32")
    rows = tf.data.Dataset.from_tensor_slices((X, weights)).map(lambda x, weight: (x, None, weight)).batch(8)
    model = distiller(loss=None, metrics=None)
    history = model.fit(rows, validation_data=rows, verbose=0).history
    assert history["val_kd"][0] == pytest.approx(model.evaluate(rows, verbose=0, return_dict=True)["kd"], rel=1e-5)


@pytest.mark.parametrize("name", ["loss", "regularization", "hard"])
def test_a_method_does_not_take_the_name_of_another_loss(name):
    model, usual = distiller(KD(name=name), hard_weight=1.0), distiller(KD(), hard_weight=1.0)
    expected, logs = (one.train_on_batch(X, Y, return_dict=True) for one in (usual, model))
    expected[f"{name}_2"] = expected.pop("kd")
    assert logs == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", ["accuracy", keras.metrics.SparseCategoricalAccuracy("kd")])
def test_a_metric_of_the_name_of_a_loss_is_refused(metric):
    model = distiller(KD(name="accuracy" if metric == "accuracy" else "kd"), hard_weight=1.0, metrics=[metric])
    with pytest.raises(ValueError, match="metrics of other names than the losses"):
        model.fit(X, Y, verbose=0)


def test_a_new_weight_of_a_method_holds_from_the_next_epoch():
    model = distiller(optimizer=keras.optimizers.SGD(0.0))
    (method,) = model.methods
    first = model.fit(X, verbose=0).history
    assert first["loss"][0] == pytest.approx(0.9 * first["kd"][0])
    method.weight = 3.0
    for logs in (model.train_on_batch(X, return_dict=True), model.evaluate(X, verbose=0, return_dict=True)):
        assert logs["loss"] == pytest.approx(3 * logs["kd"], rel=1e-5)
    grow = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(method, "weight", {0: epoch + 5.0}))
    history = model.fit(X, epochs=3, callbacks=[grow], verbose=0).history
    assert np.divide(history["loss"], history["kd"]) == pytest.approx([3, 5, 6], rel=1e-4)
    with pytest.raises(ValueError, match="weight"):
        method.weight = -1.0


def test_a_callback_can_attach_another_teacher_and_change_the_hard_weight():
    teachers = [convolutional(6, name=f"teacher_{epoch}") for epoch in range(3)]

    class Exchange(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.attach(teachers[epoch])
            self.model.hard_weight = float(epoch)

    model = Distiller(student=convolutional(), teacher=teachers[0], methods=[KD()], hard_weight=1.0)
    compiled(model, optimizer=keras.optimizers.SGD(0.0))
    expected = []
    for teacher in teachers:
        model.attach(teacher)
        expected.append(kd(model, X))
    history = model.fit(X, Y, epochs=3, callbacks=[Exchange()], verbose=0).history
    assert history["kd"] == pytest.approx(expected, rel=1e-4) and len(set(expected)) == 3
    logs = {name: history[name][-1] for name in ("loss", "hard", "kd")}
    assert logs["loss"] == pytest.approx(2.0 * logs["hard"] + 0.9 * logs["kd"], rel=1e-5)
