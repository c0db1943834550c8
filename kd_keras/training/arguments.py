"""Checks the kinds of the arguments of a Distiller."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import keras

from kd_keras.errors import shorten
from kd_keras.methods.base import Method


def check_kinds(student: Any, methods: Sequence[Any]) -> None:
    """Checks that a student is a Keras model, and that methods are a list of new methods.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a method already belongs to another Distiller.

    >>> check_kinds(keras.Sequential(), [])
    """
    if not isinstance(student, keras.Model):
        is_path = isinstance(student, (str, os.PathLike))
        advice = "Load the file with keras.saving.load_model(path)." if is_path else "Pass one built model."
        received = f"{shorten(student)} ({type(student).__name__})"
        raise TypeError(f"Distiller(student=...) must be a Keras model, but received {received}. {advice}")
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
