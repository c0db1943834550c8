"""A teacher that follows the student: the average and the state of one epoch ago, in NumPy, and in checkpoints."""

import keras
import numpy as np
import pytest

from kd_keras import Distiller, methods
from kd_keras.training import Checkpoint, FollowingTeacher, NonFinite
from tests.support.networks import compiled, convolutional, examples, mirrored, same, values


def distiller(decay, replicas=1, normalized=True, **options):
    keras.utils.set_random_seed(0)
    with mirrored(replicas).scope():
        student = convolutional(4, normalized=normalized)
        teacher = FollowingTeacher(student, decay=decay)
        made = Distiller(student=student, teacher=teacher, methods=[methods.KD(weight=0.5)], hard_weight=0.5)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        return compiled(made, optimizer=optimizer, jit_compile=False, **options)


class Record(keras.callbacks.Callback):
    """The student after every step, and the teacher after every step and epoch."""

    def on_train_begin(self, logs=None):
        self.students, self.teachers, self.epochs = [values(self.model.student.weights)], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.students.append(values(self.model.student.weights))
        self.teachers.append(values(self.model.teacher.networks[0].weights))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(values(self.model.teacher.networks[0].weights))


def fit(model, epochs=3, **options):
    return model.fit(*examples(24), batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)


def test_the_average_step_by_step():
    record = Record()
    fit(distiller(decay=0.7), callbacks=[record])
    average = [array.astype("float64") for array in record.students[0]]
    for number, (student, teacher) in enumerate(zip(record.students[1:], record.teachers, strict=True), start=1):
        decay = min(1 - 1 / (number + 1), 0.7)
        average = [decay * a + (1 - decay) * s for a, s in zip(average, student, strict=True)]
        assert same(teacher, average, atol=1e-5)
    assert not same(teacher, student, atol=1e-3)


def test_the_past_student_is_that_of_the_end_of_the_previous_epoch():
    record = Record()
    fit(distiller(decay=None), callbacks=[record])
    for step in range(9):
        assert same(record.teachers[step], record.students[3 * (step // 3)])
    assert same(record.epochs[0], record.students[3])


def test_the_student_learns_from_the_copy_and_the_copy_is_not_trained():
    model = distiller(decay=None)
    assert len(model.trainable_variables) == len(model.student.trainable_variables)
    history = fit(model).history
    assert history["kd"][0] != history["kd"][1] and history["kd"][1] > 0


@pytest.mark.parametrize("decay", [None, 0.7])
def test_a_checkpoint_contains_the_copy(decay, tmp_path):
    whole, first, resumed = (distiller(decay) for _ in range(3))
    fit(whole)
    fit(first, epochs=2, callbacks=[Checkpoint(tmp_path, every_epochs=2)])
    start = Checkpoint(tmp_path).restore(resumed)
    assert same(values(resumed.teacher.networks[0].weights), values(first.teacher.networks[0].weights))
    fit(resumed, initial_epoch=start.epoch)
    assert same(values(whole.student.weights), values(resumed.student.weights))
    assert same(values(whole.teacher.networks[0].weights), values(resumed.teacher.networks[0].weights))


@pytest.mark.parametrize("decay", [None, 0.7])
def test_one_replica_equals_two(decay):
    one, two = (distiller(decay, replicas, normalized=False) for replicas in (1, 2))
    for model in (one, two):
        fit(model)
    assert same(values(one.student.weights), values(two.student.weights), atol=1e-5)
    assert same(values(one.teacher.networks[0].weights), values(two.teacher.networks[0].weights), atol=1e-5)


def test_a_skipped_step_is_not_averaged():
    record, model = Record(), distiller(decay=0.7)
    x, y = examples(24)
    x[8:16] = np.nan
    with pytest.warns(UserWarning, match="Skipped"):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[record, NonFinite("skip")])
    assert same(record.teachers[0], record.teachers[1]) and not same(record.teachers[1], record.teachers[2])


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(ValueError, match="steps_per_execution=1"):
        fit(distiller(decay=0.7, steps_per_execution=3))
    with pytest.raises(ValueError, match="decay"):
        FollowingTeacher(convolutional(), decay=1.0)
