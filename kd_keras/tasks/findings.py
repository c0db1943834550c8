"""What the evaluations of several tasks share: ends of intervals, and tables of findings on a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kd_keras.evaluation.intervals import LEVEL
from kd_keras.report.sections.base import Network, Table, is_missing


def interval_of(name: str, values: np.ndarray) -> Iterator[tuple[str, float]]:
    """Yields `<name>_low` and `<name>_high`, the ends of the 95 % percentile interval of resampled values without NaN.

    >>> {name: round(end, 3) for name, end in interval_of("ap", np.array([0.0, 0.5, 1.0, np.nan]))}
    {'ap_low': 0.025, 'ap_high': 0.975}
    """
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    yield from ((f"{name}_low", float(low)), (f"{name}_high", float(high)))


def networks_with(finding: str, networks: Sequence[Network]) -> list[Network]:
    """Those of some networks that have a finding."""
    return [network for network in networks if not is_missing(network.findings.get(finding))]


def tabulate(
    networks: Sequence[Network], rows: Mapping[str, tuple[str, Callable[[Any], str]]], caption: str = ""
) -> Table:
    """A table with a column for each network.

    Args:
        networks: the networks.
        rows: by the name of a finding, the text of its row and the function that formats it.
        caption: of the table.

    >>> from kd_keras.report.sections.base import decimal
    >>> tabulate([Network("student", "the student", 1, {"f1": 0.5}, {})], {"f1": ("F1", decimal)}).rows
    [['F1', '0.500']]
    """
    cells = [
        [title, *(form(network.findings.get(name)) for network in networks)] for name, (title, form) in rows.items()
    ]
    return Table(caption, ["", *(network.label for network in networks)], cells)
