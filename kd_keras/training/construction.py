"""What a Distiller is made of: the kinds of its parts, and what of the student it does not use."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from kd_keras.errors import shorten
from kd_keras.methods.base import Method
from kd_keras.networks.square_inputs import check_square_input

UNUSED = ("train_step", "test_step", "compute_metrics")


def check_parts(student: Any, methods: Sequence[Any]) -> None:
    """Checks the kinds of student and methods, and warns of what the Distiller replaces.

    Raises:
        TypeError: if the student is no Keras model, or the methods are no list of `Method`.
        ValueError: if a method already belongs to another Distiller, or the student cannot be computed for its input.
    """
    if not isinstance(student, keras.Model):
        is_path = isinstance(student, (str, os.PathLike))
        advice = "Load the file with keras.saving.load_model(path)." if is_path else "Pass one built model."
        received = f"{shorten(student)} ({type(student).__name__})"
        raise TypeError(f"Distiller(student=...) must be a Keras model, but received {received}. {advice}")
    check_square_input(student)
    expected = "Distiller(methods=...) must be a list of methods such as kd_keras.methods.KD(), but received"
    if not isinstance(methods, (list, tuple)):
        received = f"{shorten(methods)} ({type(methods).__name__})"
        raise TypeError(f"{expected} {received}. Write methods=[...] with brackets, also for a single method.")
    for number, method in enumerate(methods):
        if not isinstance(method, Method):
            is_class = inspect.isclass(method) and issubclass(method, Method)
            advice = f"{method.__name__}(), an object" if is_class else "an object of a class in kd_keras.methods"
            raise TypeError(f"{expected} {shorten(method)} in the list. Pass {advice}.")
        if any(method is earlier for earlier in methods[:number]):
            raise ValueError(f"{expected} the method {method.name!r} twice. Make two of them.")
        if method.built:
            raise ValueError(
                f"Method {method.name!r} must be new, but it already belongs to another Distiller. Make another "
                f"{type(method).__name__}()."
            )
    own = [name for name in UNUSED if getattr(type(student), name) is not getattr(keras.Model, name)]
    if own:
        warnings.warn(
            f"The student {student.name!r} has its own {' and '.join(own)}, but a Distiller has a training step, an "
            "evaluation and metrics of its own and does not run them. It uses the student's call, compute_loss and "
            "predict_step: move what must be kept into these, into a Method or into the metrics of compile().",
            stacklevel=3,
        )
