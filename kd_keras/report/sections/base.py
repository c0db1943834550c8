"""The parts of a section: figures, tables, cards of images, and numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import TypeIs


class Network(NamedTuple):
    """A network as the page shows it.

    Attributes:
        label: its name in figures and tables.
        phrase: its name in sentences, such as "the distilled student".
        style: its mark and color, an index into `figures.MARKS`.
        findings: the findings of the evaluation by name.
        history: the columns of its training metrics.
    """

    label: str
    phrase: str
    style: int
    findings: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]


class Plot(NamedTuple):
    """A figure: the `<svg>` element and the caption below it."""

    svg: str
    caption: str


class Table(NamedTuple):
    """A table: its caption, the names of its columns, and rows of texts that begin with the name of the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Card(NamedTuple):
    """Images side by side.

    Attributes:
        images: data URIs with names, which may be empty.
        alt: the text alternative.
        lines: below the images, (name, text); the name may be empty.
        pixelated: whether the images are so small that their pixels are shown.
    """

    images: Sequence[tuple[str, str]]
    alt: str
    lines: Sequence[tuple[str, str]]
    pixelated: bool = False


class Section(NamedTuple):
    """The content under one heading.

    Attributes:
        plots, tables, cards: in this order on the page.
        intro: the sentences under the heading; may be empty.
        legend: whether the marks of its figures need a legend.
        thirds: whether its figures are shown three side by side.
        large: whether the images of its cards are large; cards with several images then have a row each.
    """

    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    cards: Sequence[Card] = ()
    intro: str = ""
    legend: bool = False
    thirds: bool = False
    large: bool = False


def percent(fraction: float | None, digits: int = 1) -> str:
    r"""A fraction as text; a dash if it is missing.

    >>> percent(0.9131), percent(None), percent(float("nan"))
    ('91.3\xa0%', '–', '–')
    """
    return "–" if is_missing(fraction) else f"{100 * fraction:.{digits}f}\u00a0%"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number as text; a dash if it is missing.

    >>> decimal(0.12345), decimal(None)
    ('0.123', '–')
    """
    return "–" if is_missing(value) else f"{value:.{digits}f}"


def is_missing(value: Any) -> TypeIs[None]:  # NaN is treated as None here, so that a type checker knows the rest
    """Whether a finding does not exist or is not a number."""
    return value is None or bool(np.all(np.isnan(np.asarray(value, "float64"))))
