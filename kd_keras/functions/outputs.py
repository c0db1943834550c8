"""Chooses one output of a file or a server that may have several."""

from __future__ import annotations

from collections.abc import Iterable

from kd_keras.errors import explain_mismatch


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
