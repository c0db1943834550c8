"""What a part of the report is made of: figures, tables, cards of images, and numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Network(NamedTuple):
    """A network as the page shows it: its `label` in figures and what sentences call it, its `look` (a place in
    `plots.MARKS`), what was found of it by name, and its training by column."""

    label: str
    called: str
    look: int
    findings: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]


class Plot(NamedTuple):
    """A figure: the `<svg>` element, and the sentence under it."""

    svg: str
    says: str


class Table(NamedTuple):
    """A table: what it shows, its columns' names, and rows of texts; the first of each is the row's name."""

    says: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Card(NamedTuple):
    """Images side by side, each a data URI with a name (which may be empty), and lines under them of who said
    what; `coarse`: whether they are so small that their pixels shall be seen."""

    images: Sequence[tuple[str, str]]
    alt: str
    lines: Sequence[tuple[str, str]]
    coarse: bool = False


class Section(NamedTuple):
    """What stands under one heading; `legend`: whether the marks of its figures need one;
    `thirds`: whether three of its figures stand side by side."""

    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    cards: Sequence[Card] = ()
    says: str = ""
    legend: bool = False
    thirds: bool = False


def percent(share: float | None, digits: int = 1) -> str:
    r"""A share as a text; a dash where there is none.

    >>> percent(0.9131), percent(None), percent(float("nan"))
    ('91.3\xa0%', '–', '–')
    """
    return "–" if missing(share) else f"{100 * share:.{digits}f}\u00a0%"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number as a text; a dash where there is none.

    >>> decimal(0.12345), decimal(None)
    ('0.123', '–')
    """
    return "–" if missing(value) else f"{value:.{digits}f}"


def missing(value: Any) -> bool:
    """Whether a finding is not there, or not a number."""
    return value is None or bool(np.all(np.isnan(np.asarray(value, "float64"))))
