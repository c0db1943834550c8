"""The check of the teacher before training: outside the step, and on any form of data without consuming it."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, distribute
from kd_keras.contracts import INPUTS, RECORDED
from kd_keras.methods import KD
from kd_keras.training import TeacherCheck
from kd_keras.training.teacher_check import _exceeds_random_names, first_batches
from tests.support.networks import CLASSES, compiled, convolutional, counted, mirrored, same, values

COUNT, BATCH = 40, 8
Y = np.tile(np.arange(CLASSES), COUNT // CLASSES)
X = np.random.default_rng(0).normal(size=(COUNT, 8, 8, 3)).astype("float32")
X[:, 0, :CLASSES, 0] = np.eye(CLASSES)[(Y + 1) % CLASSES]  # the teacher below reads its predictions here, all wrong


@keras.saving.register_keras_serializable("tests")
class ReadsPixels(keras.layers.Layer):
    def call(self, images):
        return 10.0 * images[:, 0, :, 0][:, :CLASSES]


def wrong_teacher():
    inputs = keras.Input(X.shape[1:])
    return keras.Model(inputs, ReadsPixels()(inputs), name="wrong")


def distiller(teacher):
    model = Distiller(student=convolutional(), teacher=teacher, methods=[KD()])
    return compiled(model, jit_compile=False)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return COUNT // BATCH

    def __getitem__(self, number):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        return X[rows], Y[rows]


def rows():
    return tf.data.Dataset.from_tensor_slices((X, Y))


FORMS = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": BATCH},
    "dataset": lambda: {"x": rows().batch(BATCH)},
    "endless": lambda: {"x": rows().batch(BATCH).repeat(), "steps_per_epoch": COUNT // BATCH},
    "pydataset": lambda: {"x": Batches()},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_below_chance_is_reported_once_for_any_form_of_data(form):
    model = distiller(wrong_teacher())
    with pytest.warns(UserWarning, match="right on 0.0% of the first 40 examples; chance is 20.0%") as caught:
        model.fit(**FORMS[form](), epochs=2, verbose=0)
    assert len([warning for warning in caught if "The teacher is right" in str(warning.message)]) == 1


def test_slices_of_replicas_are_joined():
    with mirrored(2).scope():
        model = distiller(wrong_teacher())
    halves = distribute.batches(model.distribute_strategy, lambda s: rows().batch(BATCH // s.total).repeat())
    with pytest.warns(UserWarning, match="right on 0.0% of the first 40 examples"):
        model.fit(halves, steps_per_epoch=5, verbose=0)


def test_recorded_outputs_are_checked():
    logits = np.array(wrong_teacher()(X))
    logits[3] = np.inf
    model = distiller(wrong_teacher())
    data = tf.data.Dataset.from_tensor_slices(({INPUTS: X, RECORDED: {"logits": logits}}, Y)).batch(BATCH)
    before = values(model.variables)
    with pytest.raises(FloatingPointError, match="'logits' for batch 0"):
        model.fit(data, verbose=0)
    assert same(before, values(model.variables))


def test_a_generator_is_not_consumed():
    generator = iter([(X, Y)])
    assert not list(first_batches({"x": generator})) and next(generator)[0] is X


def test_the_check_runs_the_teacher_once_for_each_of_its_batches():
    teacher, passes = counted(convolutional(6, name="teacher"))
    model = distiller(teacher)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y, batch_size=2, epochs=2, verbose=0)
    assert passes.read() == (0, 8 + 2 * COUNT // 2)


def test_a_given_check_replaces_the_automatic_one():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The teacher is right")
        distiller(wrong_teacher()).fit(X, Y, callbacks=[TeacherCheck([])], verbose=0)


def test_an_untrained_teacher_passes_once_in_forty():
    """An untrained network maps each class to one class, mostly: it is right on a fifth of ten in every fourth case."""
    random, passed, above_chance = np.random.default_rng(0), [], []
    for _ in range(400):
        labels = random.integers(0, 10, 256)
        mapped = random.integers(0, 10, 10)[labels]
        predictions = np.where(random.random(256) < 0.8, mapped, random.integers(0, 10, 256))
        above_chance.append((labels == predictions).mean() > 0.15)
        passed.append(above_chance[-1] and _exceeds_random_names(labels, predictions, 10))
    assert np.mean(above_chance) > 0.2 and np.mean(passed) < 0.04


@pytest.mark.parametrize(("classes", "accuracy"), [(2, 0.75), (3, 0.6), (10, 0.25), (100, 0.1), (1000, 0.1)])
def test_a_weak_teacher_is_not_reported(classes, accuracy):
    random = np.random.default_rng(1)
    labels = random.integers(0, classes, 256)
    predictions = np.where(random.random(256) < accuracy, labels, random.integers(0, classes, 256))
    assert _exceeds_random_names(labels, predictions, classes)


def test_batches_of_one_class_are_no_reason_to_report():
    labels = np.zeros(64, "int64")
    assert _exceeds_random_names(labels, np.where(np.arange(64) < 8, 3, labels), 10)


def test_ignored_labels_are_no_errors_of_the_teacher():
    teacher = wrong_teacher()
    right = (Y + 1) % CLASSES  # what this teacher predicts
    labels = np.where(np.arange(COUNT) % 4 == 0, right, -1)
    model = distiller(teacher)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    model.compile("sgd", loss, jit_compile=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The teacher is right")
        model.fit(X, labels, verbose=0)


@pytest.mark.parametrize("offset", [0, 1])
def test_a_teacher_of_positions_is_checked(offset):
    inputs = keras.Input((CLASSES, CLASSES, CLASSES))
    student = keras.Model(inputs, keras.layers.Conv2D(CLASSES, 1, name="student")(inputs))
    teacher = keras.Model(inputs, keras.layers.Rescaling(10.0)(inputs))
    labels = np.random.default_rng(0).integers(0, CLASSES, (8, CLASSES, CLASSES))
    images = np.eye(CLASSES, dtype="float32")[(labels + offset) % CLASSES]
    model = compiled(Distiller(student=student, teacher=teacher, methods=[KD()]), jit_compile=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(images, labels, verbose=0)
    reports = [str(w.message) for w in caught if "The teacher is right" in str(w.message)]
    assert len(reports) == offset and all("right on 0.0%" in report for report in reports)
