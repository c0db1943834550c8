"""Writes the metrics of a run; reads its files, and names the one that is damaged."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

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


class MetricsFile(keras.callbacks.CSVLogger):
    """Writes metrics.csv, also metrics that the first epoch does not have.

    Args:
        file: the path of metrics.csv.
        columns: the names of such metrics.
        append: whether the file already has the metrics of earlier epochs.
    """

    def __init__(self, file: Path, columns: Sequence[str] = (), append: bool = False):
        super().__init__(str(file), append=append)
        self.columns = tuple(columns)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        if self.append and not self.append_header:
            # Keras would order the columns by the first epoch of this training, whatever the header says.
            with open(self.filename, newline="") as lines:
                self.keys = next(csv.reader(lines))[1:]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, {**dict.fromkeys(self.columns, "NA"), **(logs or {})})
