"""A teacher that is an earlier state or an average of the student itself, and the callback that keeps it up to date."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from kd_keras.errors import check_number, explain_mismatch
from kd_keras.teacher import Teacher


class FollowingTeacher(Teacher):
    """A copy of the student that follows its weights while it trains, and runs in inference.

    `Distiller.fit` updates it, and a `Checkpoint` contains it. `train_on_batch` does not update it. All weights follow,
    also the moving statistics of BatchNorm.

    Args:
        student: the student of the Distiller; a Functional or Sequential model, or one that Keras can clone.
        decay: `None` for the student as it was at the end of the previous epoch. A number in [0, 1) for the exponential
            moving average of its weights: after update t, counted from 1, average <- d average + (1 - d) student with
            d = min(1 - 1 / (t + 1), decay), as the code of Tarvainen and Valpola 2017, 1703.01780, has it.

    Raises:
        TypeError: if the decay is not a number.
        ValueError: if the decay is out of range.

    >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> FollowingTeacher(student, decay=0.999).networks[0].count_params()
    15
    """

    def __init__(self, student: keras.Model, *, decay: float | None = None):
        copy = keras.models.clone_model(student)
        copy.set_weights(student.get_weights())
        copy.trainable = False
        super().__init__(copy)
        self.decay = None if decay is None else check_number("FollowingTeacher", "decay", decay, least=0, below=1)

    def follow(self, student: keras.Model, weight: float) -> None:
        """Moves all weights of the copy by a fraction `weight` of the way to those of the student."""
        for own, variable in zip(self.networks[0].weights, student.weights, strict=True):
            value = ops.cast(variable, "float32")
            own.assign(ops.cast(ops.cast(own, "float32") * (1.0 - weight) + value * weight, own.dtype))


class FollowStudent(keras.callbacks.Callback):
    """Updates the `FollowingTeacher` of a Distiller after every update, or at the end of every epoch.

    `Distiller.fit` adds it, before the callbacks that save. An update that is skipped, because it is not finite, is not
    averaged.
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._averages = self.model.teacher.decay is not None
        steps = self.model.steps_per_execution
        if self._averages and steps != 1:
            expected = "steps_per_execution=1, because the average of the student changes after every step"
            raise ValueError(explain_mismatch(expected, f"steps_per_execution={steps}", "change it in compile()"))
        self._updates = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        self._follow = tf.function(lambda weight: self.model.teacher.follow(self.model.student, weight))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        updates = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        if self._averages and updates > self._updates:
            self._update(1.0 - min(1.0 - 1.0 / (updates + 1), self.model.teacher.decay))
        self._updates = updates

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if not self._averages:
            self._update(1.0)

    def _update(self, weight: float) -> None:
        with self.model.distribute_strategy.scope():
            self._follow(tf.constant(weight))
