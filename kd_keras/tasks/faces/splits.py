"""Splits with a part of the identities, such as "train+test/identities[:30]"."""

from __future__ import annotations

import re

FORM = re.compile(r"(?P<split>[^/]+)/identities\[(?P<begin>\d*):(?P<end>\d*)\]")


def parse_split(text: str) -> tuple[str, slice | None]:
    """The split of a dataset, and which of its identities; `None` for all.

    Raises:
        ValueError: if the text has another form.

    >>> parse_split("train+test/identities[30:]"), parse_split("train")
    (('train+test', slice(30, None, None)), ('train', None))
    """
    if "/" not in text:
        return text, None
    match = FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            "A split with a part of the identities must have the form 'train+test/identities[:30]', but received "
            f"{text!r}."
        )
    begin, end = (int(match[name]) if match[name] else None for name in ("begin", "end"))
    return match["split"], slice(begin, end)
