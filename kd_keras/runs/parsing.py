"""Parses the text forms of models, methods, weights and normalizations.

No text is evaluated as code; a method such as `my_methods.py:Cosine` names a file of the user, which is run.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd_keras import methods
from kd_keras.errors import shorten, suggest
from kd_keras.methods import Method

NORMALIZATIONS = ("fit", "unit", "symmetric")


def parse_call(text: str, nested: Callable[[str], Any] | None = None) -> tuple[str, dict[str, Any]]:
    """Reads `name` or `name(argument=literal, ...)`.

    Args:
        text: what the user wrote.
        nested: parses an argument that is itself a call; by default such an argument is an error.

    Raises:
        ValueError: if the text has another form.

    >>> parse_call("kd(temperature=4, weight=0.9)")
    ('kd', {'temperature': 4, 'weight': 0.9})
    """
    name, bracket, rest = text.strip().partition("(")

    def value(node: ast.expr) -> Any:
        if nested and isinstance(node, ast.Call):
            return nested(ast.unparse(node))
        try:
            return ast.literal_eval(node)
        except ValueError as error:
            raise SyntaxError("only literals") from error

    try:
        call = ast.parse(f"f({rest}" if bracket else "f()", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise SyntaxError("only name=value")
        arguments = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        if len(arguments) < len(call.keywords) or not re.fullmatch(r"[\w./:-]+", name.strip()):
            raise SyntaxError("only name=value")
        return name.strip(), {argument: value(node) for argument, node in arguments.items()}
    except SyntaxError as error:
        raise ValueError(
            f"Expected name(argument=value, ...) with literal values, but received {shorten(text)}. "
            "Write for example kd(temperature=4, weight=0.9); put text in quotes: logits(form='mse')."
        ) from error


def method_classes() -> dict[str, type[Method]]:
    """The classes of all methods by their names in lower case, which texts use."""
    kinds = [kind for kind in vars(methods).values() if inspect.isclass(kind) and issubclass(kind, Method)]
    return {kind.__name__.lower(): kind for kind in kinds if kind is not Method}


def parse_method(text: str, **known: Any) -> Method:
    """Makes the method that a text such as `kd(temperature=4)` or `lskd(host=dkd(beta=2))` describes.

    Args:
        text: what the user wrote. `my_methods.py:Cosine(weight=1)` is the class `Cosine` of a file of the user.
        known: arguments that the caller knows, such as `examples=`. They are passed to a method that takes them, unless
            the text sets them.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if the method or an argument is unknown, or a value is out of range.

    >>> parse_method("kd(temperature=2)").temperature
    2.0
    """
    name, arguments = parse_call(text, nested=parse_method)
    kind = _method_class(name)
    accepted = list(inspect.signature(kind).parameters)
    for argument in arguments:
        if argument not in accepted:
            advice = suggest(argument, accepted)
            raise ValueError(f"Method {name!r} takes {', '.join(accepted)}, but received {shorten(argument)}: {advice}")
    return kind(**{key: value for key, value in known.items() if key in accepted} | arguments)


def _method_class(name: str) -> type[Method]:
    """The class of a method by its name, or by its file and name.

    Raises:
        ValueError: if there is no such class.
    """
    file, colon, member = name.rpartition(":")
    classes = method_classes()
    if not colon:
        if name not in classes:
            raise ValueError(f"There is no method {name!r}: {suggest(name, classes)}")
        return classes[name]
    if not file.endswith(".py") or not Path(file).is_file():
        raise ValueError(f"Expected a method FILE.py:CLASS, but received {name!r}, and there is no file {file!r}.")
    members = _run_file(Path(file).resolve())
    own = {key: value for key, value in members.items() if inspect.isclass(value) and issubclass(value, Method)}
    if member not in own:
        raise ValueError(f"{file} must define the method {member!r}, but it does not: {suggest(member, own)}")
    return own[member]


@functools.cache
def _run_file(file: Path) -> dict[str, Any]:
    """The names that a Python file of the user defines; run once, so that its classes are the same for all calls."""
    try:
        name = f"kd_keras_file_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError("it is not a module")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return vars(module)
    except Exception as error:  # whatever the file raises
        raise ValueError(f"{file} cannot be run. Python reports {type(error).__name__}: {error}") from error


def parse_weight(text: str, name: str) -> float | dict[int, float]:
    """Parses a weight: a number, or numbers by the first epoch in which they apply.

    Raises:
        ValueError: if it is neither, or if a number is negative.

    >>> parse_weight("0.1", "hard_weight"), parse_weight("{0: 0, 30: 1}", "hard_weight")
    (0.1, {0: 0, 30: 1})
    """
    try:
        weight = ast.literal_eval(text)
        numbers = weight.values() if isinstance(weight, dict) else [weight]
        if not all(isinstance(number, (int, float)) and number >= 0 for number in numbers):
            raise SyntaxError("only numbers of at least 0")
        return weight
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"{name} must be a number of at least 0, or {{epoch: number, ...}}, but received {shorten(text)}."
        ) from error


def parse_normalization(value: Any) -> str | tuple[tuple[float, ...], tuple[float, ...]]:
    """Parses a normalization: a name, or a pair of means and standard deviations in pixel units, also as text.

    Raises:
        ValueError: if it is neither.

    >>> parse_normalization("fit"), parse_normalization("((127.5,), (63.75,))")
    ('fit', ((127.5,), (63.75,)))
    """
    if isinstance(value, str) and value in NORMALIZATIONS:
        return value
    try:
        mean, std = ast.literal_eval(value) if isinstance(value, str) else value
        pair = tuple(map(float, mean)), tuple(map(float, std))
    except (ValueError, TypeError, SyntaxError) as error:
        raise ValueError(
            f"normalization must be one of {', '.join(NORMALIZATIONS)}, or ((mean, ...), (standard deviation, ...)) in "
            f"pixel units, but received {shorten(value)}."
        ) from error
    if len(pair[0]) != len(pair[1]) or not pair[0] or min(pair[1]) <= 0:
        raise ValueError(
            f"normalization needs as many standard deviations above 0 as means, but received {shorten(value)}."
        )
    return pair
