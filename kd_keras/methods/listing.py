"""The list of methods, from their class attributes."""

from __future__ import annotations

import inspect

import kd_keras.methods as methods
from kd_keras.methods.base import Method

COLUMNS = ("method", "family", "taps of the student", "taps of the teacher", "weight", "hard loss", "paper")
FAMILIES = ("logits", "features", "relations", "embeddings", "dense", "label-free", "self")


def list_kinds() -> list[type[Method]]:
    """The classes of all methods, by family and name.

    The families come in the order of `FAMILIES`, then all others.
    """
    exported = (getattr(methods, name) for name in methods.__all__)
    kinds = [kind for kind in exported if inspect.isclass(kind) and issubclass(kind, Method) and kind.family]
    ranks = {family: index for index, family in enumerate(FAMILIES)}
    return sorted(kinds, key=lambda kind: (ranks.get(kind.family, len(ranks)), kind.family, kind.__name__.lower()))


def describe_kind(kind: type[Method]) -> tuple[str, ...]:
    """The cells of a method's row in Markdown, in the order of `COLUMNS`.

    >>> describe_kind(methods.KD)
    ('`kd`', 'logits', '`logits`', '`logits`', '0.9', '0.1', 'Hinton, Vinyals, Dean 2015, 1503.02531')
    """
    taps = (", ".join(f"`{tap}`" for tap in names) or "none" for names in kind.taps)
    weights = (f"{weight:g}" for weight in (kind.default_weight, kind.published_hard_weight))
    return f"`{kind.__name__.lower()}`", kind.family, *taps, *weights, kind.paper


def format_table() -> str:
    """The table of all methods in Markdown."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(describe_kind, list_kinds())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
