"""The callbacks of every `fit` of a Distiller, besides the user's."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from kd_keras.training.data_check import checked_batches
from kd_keras.training.following import FollowingTeacher, FollowStudent
from kd_keras.training.nonfinite import NonFinite
from kd_keras.training.outcome_check import OutcomeCheck
from kd_keras.training.teacher_check import CHECKED, TeacherCheck, first_batches, keep_first_batches


def complete_callbacks(
    model: keras.Model, arguments: MutableMapping[str, Any], set_epoch: Callable[[int], Any]
) -> list[keras.callbacks.Callback]:
    """The callbacks of a `fit`: those that count epochs and check data, teacher, steps and outcome; then the user's.

    Args:
        model: the Distiller.
        arguments: the arguments of `fit` by name; a generator is replaced by one that yields its first batches again.
        set_epoch: receives the number of each epoch at its beginning.
    """
    given = arguments.get("callbacks") or []
    given = tree.flatten(given.callbacks if isinstance(given, keras.callbacks.CallbackList) else given)
    guards = [callback for callback in given if isinstance(callback, NonFinite)]
    skips = any(guard.on_nonfinite == "skip" for guard in guards)
    is_distributed = isinstance(arguments["x"], tf.distribute.DistributedDataset)
    first: Iterable[Any] = first_batches(arguments)
    if isinstance(arguments["x"], Iterator):
        first, arguments["x"] = keep_first_batches(
            arguments["x"], min(CHECKED, arguments.get("steps_per_epoch") or CHECKED)
        )
        first = [batch for batch in first if isinstance(batch, tuple)]  # Keras refuses others
    batches = checked_batches(model, first, skips, is_distributed)
    added: list[keras.callbacks.Callback] = [
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: set_epoch(epoch))
    ]
    if model.teacher.specs and not any(isinstance(callback, TeacherCheck) for callback in given):
        added.append(TeacherCheck(batches))
    else:
        read = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: collections.deque(batches, maxlen=0))
        added.append(read)
    if isinstance(model.teacher, FollowingTeacher):
        added.append(FollowStudent())
    if not guards:
        added.append(NonFinite())
    return [*added, OutcomeCheck(), *given]
