"""The one form of an error message, and the checks of arguments that every room shares. Nothing here imports Keras."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable
from typing import Any


def explain_mismatch(expected: str, received: str, advice: str = "") -> str:
    """Says what was expected, what was received, and what to do about it.

    Args:
        expected: completes the sentence "Expected ...".
        received: completes "... but received ...".
        advice: what to do, without its first capital and its full stop; may be empty.

    >>> explain_mismatch("a Keras model as student", "a str", "pass the model itself")
    'Expected a Keras model as student, but received a str. Pass the model itself.'
    """
    sentence = f"Expected {expected}, but received {received}."
    if not advice:
        return sentence
    return f"{sentence} {advice[0].upper()}{advice[1:]}{'' if advice[-1] in '.?!' else '.'}"


def suggest(name: str, choices: Iterable[str]) -> str:
    """The advice for an unknown name: the closest choices, or all of them if none is close.

    >>> suggest("resnet21", ["mlp", "resnet20"])
    'did you mean resnet20?'
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"choose one of: {', '.join(choices)}"


def check_number(
    owner: str, argument: str, value: Any, above: float | None = None, least: float | None = None
) -> float:
    """Checks that a hyper-parameter is a finite number, greater than `above` and at least `least` if these are given.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not finite or too small.

    >>> check_number("KD", "temperature", 4, above=0)
    4.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}({argument}=...) must be a number, but received {value!r} ({type(value).__name__}).")
    for holds, wanted in (
        (abs(value) < float("inf"), "finite"),
        (above is None or value > above, f"greater than {above}"),
        (least is None or value >= least, f"at least {least}"),
    ):
        if not holds:
            raise ValueError(f"{owner}({argument}=...) must be {wanted}, but received {value!r}.")
    return float(value)


def check_whole_number(owner: str, argument: str, value: Any, least: int = 1) -> int:
    """Checks that a hyper-parameter is a whole number of at least `least`.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not whole or too small.

    >>> check_whole_number("CRD", "negatives", 16)
    16
    """
    if check_number(owner, argument, value) != int(value) or value < least:
        raise ValueError(f"{owner}({argument}=...) must be a whole number of at least {least}, but received {value!r}.")
    return int(value)
