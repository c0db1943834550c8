"""Checks that the training of a student cannot change its teacher."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import keras

from kd_keras.errors import explain_mismatch
from kd_keras.private_api import own_variables, sub_layers


def check_separate(student: keras.Model, teachers: Sequence[keras.Model]) -> None:
    """Checks that no variable that the training of a student changes belongs to a teacher.

    A student may contain layers of the teacher that are frozen (`layer.trainable = False`), or that never change, such
    as a Normalization.

    Args:
        student: the network to train.
        teachers: the networks of the teacher.

    Raises:
        ValueError: if a teacher is the student itself, or shares such variables with it.

    >>> hidden = keras.layers.Dense(3, name="hidden")
    >>> nets = [keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2)]) for _ in range(2)]
    >>> hidden.trainable = False
    >>> check_separate(*nets[:1], nets[1:])
    """
    layers = {id(variable): layer.name for layer in sub_layers(student) for variable in _changing_variables(layer)}
    for teacher in teachers:
        expected = f"a teacher {teacher.name!r} whose variables do not change when the student {student.name!r} trains"
        advice = "clone it with keras.models.clone_model(), and copy the weights with set_weights(get_weights())"
        if teacher is student:
            raise ValueError(explain_mismatch(expected, "the student itself as its own teacher", advice))
        shared = [id(variable) for variable in teacher.weights if id(variable) in layers]
        if shared:
            names = ", ".join(map(repr, dict.fromkeys(layers[variable] for variable in shared[:4])))
            count = f"{len(shared)} variable{'s' * (len(shared) > 1)}"
            received = f"networks that share {count}, of the layers {names}{', ...' * (len(shared) > 4)}"
            advice = f"make the student of a clone of the teacher, or freeze these layers; {advice}"
            raise ValueError(explain_mismatch(expected, received, advice))


def _changing_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The variables of a layer alone that training changes: by gradients, or as the statistics of a BatchNorm."""
    if not layer.trainable:
        return []
    has_statistics = "training" in inspect.signature(layer.call).parameters
    return [variable for variable in own_variables(layer) if variable.trainable or has_statistics]
