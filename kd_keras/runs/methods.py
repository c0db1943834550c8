"""Converts methods and weights between texts, objects and lines of flags.txt."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from kd_keras.errors import shorten
from kd_keras.methods import Method
from kd_keras.methods.schedules import Weight
from kd_keras.runs.parsing import method_classes, parse_method
from kd_keras.runs.settings import GivenObject


def make_methods(texts_or_methods: Sequence[str | Method], **known: Any) -> list[Method]:
    """Makes methods of texts, with `known` arguments as `parse_method` takes them, and takes methods as they are.

    Raises:
        TypeError: if an item is neither a text nor a method, or if the argument is not a list.
        ValueError: if a text does not describe a method.
    """
    if isinstance(texts_or_methods, (str, Method)):
        example = repr(texts_or_methods) if isinstance(texts_or_methods, str) else "method"
        raise TypeError(f"methods must be a list, but received {shorten(texts_or_methods)}. Write methods=[{example}].")
    methods = []
    for method in texts_or_methods:
        if not isinstance(method, (str, Method)):
            raise TypeError(
                f"A method must be a Method such as methods.KD(), or its text, but received {shorten(method)}."
            )
        # Before the images are read, only the taps of a method matter, not the size of its memory or of its classes.
        arguments = {"examples": None, "classes": 2} | known
        methods.append(parse_method(method, **arguments) if isinstance(method, str) else method)
    return methods


def methods_setting(methods: Sequence[str | Method]) -> list[str | GivenObject]:
    """Methods as flags.txt records them: as texts, if possible.

    >>> from kd_keras.methods import KD
    >>> methods_setting(["at", KD(temperature=2)])
    ['at', 'kd(temperature=2.0)']
    """
    return [method if isinstance(method, str) else _as_setting(method) for method in methods]


def _as_setting(method: Method) -> str | GivenObject:
    """The text of a method, or for a class of the user's a description with its arguments, which a run is compared by.

    >>> class Own(Method):
    ...     def __init__(self, temperature, **options):
    ...         super().__init__(**options)
    ...         self.temperature = temperature
    ...     def call(self, student, teacher, batch, step): ...
    >>> "temperature=8.0" in _as_setting(Own(temperature=8.0)).description
    True
    """
    if (text := method_text(method)) is not None:
        return text
    config = sorted(method.get_config().items())
    shown = [f"{name}={value!r}" if _is_literal(value) else f"{name}: {type(value).__name__}" for name, value in config]
    return GivenObject(f"a {type(method).__name__} method ({', '.join(shown)})")


def method_text(method: Method) -> str | None:
    """The text from which `parse_method` makes an equal method, or `None` if no text does."""
    name = type(method).__name__.lower()
    if method_classes().get(name) is not type(method):
        return None
    parameters = inspect.signature(type(method)).parameters.values()
    config = method.get_config()
    required = {p.name: config[p.name] for p in parameters if p.default is p.empty}
    default = type(method)(**required).get_config()
    changed = required | {argument: value for argument, value in config.items() if value != default.get(argument)}
    # A dictionary is a serialized object: a schedule, or another method.
    if any(isinstance(value, dict) or not _is_literal(value) for value in changed.values()):
        return None
    arguments = ", ".join(f"{argument}={value!r}" for argument, value in changed.items())
    return f"{name}({arguments})" if arguments else name


def weight_setting(weight: Weight | None) -> str | GivenObject | None:
    """A weight as flags.txt records it.

    >>> weight_setting({0: 1, 1: 0.5}), weight_setting(0.1), weight_setting(None)
    ('{0: 1, 1: 0.5}', '0.1', None)
    """
    if weight is None:
        return None
    plain = dict(weight) if isinstance(weight, Mapping) else weight
    return repr(plain) if _is_literal(plain) else GivenObject(f"a schedule of type {type(weight).__name__}")


def weight_description(weight: Weight | None) -> str | None:
    """A weight as a result records it.

    >>> weight_description({0: 1, 1: 0.5})
    '{0: 1, 1: 0.5}'
    """
    setting = weight_setting(weight)
    return setting.description if isinstance(setting, GivenObject) else setting


def _is_literal(value: Any) -> bool:
    try:
        return ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError):
        return False
