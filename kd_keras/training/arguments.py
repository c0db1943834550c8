"""Checks the kinds of the arguments of a Distiller."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import keras

from kd_keras.errors import explain_mismatch, shorten
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
        advice = "load the file with keras.saving.load_model(path)" if is_path else "pass one built model"
        received = f"{shorten(student)} ({type(student).__name__})"
        raise TypeError(explain_mismatch("a Keras model as Distiller(student=...)", received, advice))
    expected = "a list of methods as Distiller(methods=...), such as [kd_keras.methods.KD()]"
    if not isinstance(methods, (list, tuple)):
        advice = "write methods=[...] with brackets, also for a single method"
        raise TypeError(explain_mismatch(expected, f"{shorten(methods)} ({type(methods).__name__})", advice))
    for method in methods:
        if not isinstance(method, Method):
            is_class = inspect.isclass(method) and issubclass(method, Method)
            advice = f"make one, {method.__name__}()" if is_class else "make methods by the classes of kd_keras.methods"
            raise TypeError(explain_mismatch(expected, f"{shorten(method)} in the list", advice))
        if method.built:
            raise ValueError(
                f"Method {method.name!r} must be new, but it already belongs to another Distiller. Make another "
                f"{type(method).__name__}()."
            )
    if any(method is other for number, method in enumerate(methods) for other in methods[:number]):
        raise ValueError(explain_mismatch(expected, "the same method twice", "make two methods with different names"))
