"""The outputs of a function: which one of several a teacher uses, and whether they can be recorded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from kd_keras.errors import explain_mismatch, shorten


def select_output(names: Iterable[str], wanted: str | None, owner: str) -> str:
    """The name of the output that a teacher uses.

    Args:
        names: of all outputs.
        wanted: the one that was asked for; by default the only one, or the one that is called "logits".
        owner: the file or the server, for the message.

    Raises:
        ValueError: if there is no such output, or the choice is not clear.

    >>> select_output(["logits", "probabilities"], None, "model.onnx")
    'logits'
    """
    names = list(names)
    if wanted is None and (len(names) == 1 or "logits" in names):
        return "logits" if "logits" in names else names[0]
    if wanted in names:
        return str(wanted)
    received = f"output={wanted!r}" if wanted is not None else "no output="
    expected = f"the name of an output of {owner}, which has {', '.join(names) or 'none'}"
    raise ValueError(explain_mismatch(expected, received, "pass output="))


def check_outputs(outputs: Any, count: int, name: str) -> np.ndarray:
    """The outputs of a function as an array `(B, ...)` float32.

    Args:
        outputs: what the function returned.
        count: B, the number of images.
        name: of the function, for messages.

    Raises:
        ValueError: if they are no finite numbers with an entry for each image.

    >>> check_outputs([[1, 2], [3, 4]], 3, "the function 'ask'")
    Traceback (most recent call last):
    ValueError: Expected outputs of shape (3, ..., K) from the function 'ask', but received an array of shape (2, 2).
    """
    try:
        values = np.asarray(outputs).astype("float32")
        received = f"an array of shape {values.shape}"
    except (TypeError, ValueError):  # a dictionary, or rows of different lengths
        values, received = np.zeros(()), f"{shorten(outputs)} ({type(outputs).__name__})"
    if values.ndim < 2 or len(values) != count or not values.size:
        raise ValueError(explain_mismatch(f"outputs of shape ({count}, ..., K) from {name}", received))
    if not np.isfinite(values).all():
        kind = "NaN" if np.isnan(values).any() else "infinity"
        raise ValueError(explain_mismatch(f"finite outputs from {name}", f"{kind} for some images"))
    return values
