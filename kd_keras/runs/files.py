"""Reads the files of a run, and names the one that is damaged."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

REPAIR = "Restore it, or train the run again with overwrite=True (in the shell --overwrite)."


def read_result(file: Path) -> dict[str, Any]:
    """The content of result.json.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        result = json.loads(file.read_text())
        if not isinstance(result, dict) or not isinstance(result.get("last", {}), dict):
            raise ValueError("it does not contain a result")
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}. {REPAIR}") from error
    return result


def read_lines(file: Path) -> list[str]:
    """The lines of flags.txt.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        text = file.read_text()
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}. {REPAIR}") from error
    if not text.strip():
        raise ValueError(f"{file} is damaged: it is empty. {REPAIR}")
    return text.splitlines()


def read_metrics(file: Path) -> dict[str, list[float]]:
    """The metrics of every epoch in metrics.csv by name; NaN for a metric that an epoch does not have.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        with open(file, newline="") as lines:
            rows = list(csv.DictReader(lines))
        names = list(rows[0]) if rows else []
        return {name: [float("nan" if row[name] == "NA" else row[name]) for row in rows] for name in names}
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{file} is damaged: {error}. {REPAIR}") from error
