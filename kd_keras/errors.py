"""The form of error messages, and the checks of arguments that every room shares. Nothing here imports Keras."""

from __future__ import annotations

import difflib
import math
import numbers
import reprlib
from collections.abc import Iterable
from typing import Any


def explain_mismatch(expected: str, received: str, advice: str = "") -> str:
    """Says what was expected, what was received, and what to do about it.

    Args:
        expected: completes the sentence "Expected ..."; of a long text the middle is left out.
        received: completes "... but received ...".
        advice: what to do, a sentence that may start in lower case and need not end in a full stop; may be empty.

    >>> explain_mismatch("a Keras model as student", "a str", "pass the model itself")
    'Expected a Keras model as student, but received a str. Pass the model itself.'
    """
    sentence = f"Expected {_cut(expected)}, but received {_cut(received)}."
    if not advice:
        return sentence
    return f"{sentence} {advice[0].upper()}{advice[1:]}{'' if advice[-1] in '.?!' else '.'}"


LONGEST = 200  # characters of a value in an error message


def shorten(value: Any) -> str:
    """The `repr` of a value for an error message: on one line, and without the middle of a long text or list.

    >>> shorten("resnet20"), shorten("x" * 1000000)[:8], len(shorten(range(1000000))) < 30
    ("'resnet20'", "'xxxxxxx", True)
    """
    try:
        text = _Shortener().repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"a value of type {type(value).__name__} that cannot be written"
    text = text if type(value) is str else " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"


def _cut(text: str) -> str:
    """A text without its middle if it is several times as long as any value of `shorten`."""
    most = 5 * LONGEST
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 4 :]}"


class _Shortener(reprlib.Repr):
    """Writes the first entries of a list and the ends of a text, without the whole `repr` of a large value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 24
        self.maxstring = self.maxlong = self.maxother = LONGEST

    def repr_ndarray(self, value: Any, level: int) -> str:
        if value.size <= self.maxlist:
            return repr(value)
        return f"an array of shape {value.shape} and dtype {value.dtype}"


def suggest(name: str, choices: Iterable[str]) -> str:
    """Advice for an unknown name: the closest choices, or all of them if none is close.

    >>> suggest("resnet21", ["mlp", "resnet20"])
    'did you mean resnet20?'
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name[:LONGEST], choices, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"choose one of: {', '.join(choices)}"


def check_number(
    owner: str,
    argument: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """Checks that an argument is a finite number within its bounds.

    Args:
        owner: the class or function whose argument it is.
        argument: the name of the argument.
        value: the value to check.
        above: the value must be greater than this.
        least: the value must be at least this.
        below: the value must be less than this.
        most: the value must be at most this.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not finite or out of bounds.

    >>> check_number("KD", "temperature", 4, above=0)
    4.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{owner}({argument}=...) must be a number, but received {shorten(value)} ({type(value).__name__})."
        )
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        number = math.inf
    bounds = (
        (above is None or number > above, f"greater than {above}"),
        (least is None or number >= least, f"at least {least}"),
        (below is None or number < below, f"less than {below}"),
        (most is None or number <= most, f"at most {most}"),
    )
    violated = [text for holds, text in bounds if not holds] if math.isfinite(number) else ["finite"]
    if violated:
        raise ValueError(f"{owner}({argument}=...) must be {violated[0]}, but received {shorten(value)}.")
    return number


def check_whole_number(owner: str, argument: str, value: Any, least: int = 1) -> int:
    """Checks that an argument is a whole number of at least `least`; the float 8.0 is accepted.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not whole or too small.

    >>> check_whole_number("CRD", "negatives", 16)
    16
    """
    if check_number(owner, argument, value) != int(value) or value < least:
        raise ValueError(
            f"{owner}({argument}=...) must be a whole number of at least {least}, but received {shorten(value)}."
        )
    return int(value)


def check_integer(owner: str, argument: str, value: Any, least: int | None = None) -> int:
    """Checks that an argument is an int, and at least `least` if that is given; the float 8.0 is rejected.

    Raises:
        TypeError: if it is not an int.
        ValueError: if it is too small.

    >>> check_integer("SimKD", "reduction", 2, least=1)
    2
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{owner}({argument}=...) must be an integer, but received {shorten(value)} ({type(value).__name__})."
        )
    if least is not None and value < least:
        raise ValueError(f"{owner}({argument}=...) must be at least {least}, but received {shorten(value)}.")
    return value


def check_integers(owner: str, argument: str, value: Any) -> list[int]:
    """Checks that an argument is a list, a tuple or an array of integers.

    Raises:
        TypeError: if it is something else.

    >>> check_integers("Teacher", "class_order", (2, 0))
    [2, 0]
    """
    is_list = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
    if not is_list or not all(isinstance(number, numbers.Integral) for number in value):
        received = f"{shorten(value)} ({type(value).__name__})"
        raise TypeError(f"{owner}({argument}=...) must be a list of integers, but received {received}.")
    return [int(number) for number in value]


def check_choice(owner: str, argument: str, value: Any, choices: Iterable[str]) -> str:
    """Checks that an argument is one of several names.

    Raises:
        ValueError: if it is not; the message suggests the closest names.

    >>> check_choice("FT", "form", "paper", ("paper", "attention"))
    'paper'
    """
    choices = tuple(choices)
    if value not in choices:
        names = " or ".join(repr(choice) for choice in choices)
        advice = suggest(str(value), choices)
        message = f"{owner}({argument}=...) must be {names}, but received {shorten(value)}."
        raise ValueError(f"{message} {advice[0].upper()}{advice[1:]}" if advice.startswith("did") else message)
    return value
