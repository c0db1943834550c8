"""The predictions for the images of a folder, whatever the task is: a table, and what makes them."""

from __future__ import annotations

import abc
import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kd_keras.errors import explain_mismatch
from kd_keras.files import write_json, write_text
from kd_keras.runs.image_folder import ImageBatch, ImageFolder

TABLES = (".csv", ".json")


@dataclass(frozen=True)
class FolderPredictions(abc.ABC):
    """The predictions for the images of a folder; a subclass for each task says what they are.

    Attributes:
        predictions: one for each image that can be read, in the order of their paths; `str` of it is a line of text.
        unreadable: by file, why it cannot be read.
    """

    predictions: Sequence[Any]
    unreadable: Mapping[str, str]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the predictions as a table: `.csv` as `rows` gives it, or `.json` as `records` gives it.

        Raises:
            ValueError: if the path ends in something else, or its folder does not exist.
        """
        check_file("an output", path, TABLES)
        if Path(path).suffix.lower() == ".json":
            write_json(path, self.records())
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.rows())
        write_text(path, text.getvalue())

    @abc.abstractmethod
    def rows(self) -> Iterator[Sequence[str]]:
        """The names of the columns, and then the rows of the table."""

    @abc.abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """A dictionary of plain values for each image."""

    @abc.abstractmethod
    def draw_sheet(self, path: str | os.PathLike, folder: ImageFolder) -> None:
        """Draws a contact sheet.

        Args:
            path: of the PNG file.
            folder: the images.
        """


class Predictor(Protocol):
    """A network that predicts batch after batch."""

    def add(self, batch: ImageBatch) -> None:
        """Predicts the images of a batch."""

    def results(self, unreadable: Mapping[str, str]) -> FolderPredictions:
        """The predictions for all batches.

        Args:
            unreadable: by file, why it cannot be read.
        """


def check_file(what: str, path: str | os.PathLike | None, suffixes: Sequence[str]) -> None:
    """Checks the path of a file that will be written, before the work begins.

    Args:
        what: the file in the words of a message.
        path: its path; `None` is no file.
        suffixes: of which it must have one.

    Raises:
        ValueError: if it has another suffix, is a folder, or its folder does not exist.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in suffixes:
        raise ValueError(explain_mismatch(f"{what} that ends in {' or '.join(suffixes)}", os.fspath(path)))
    if Path(path).is_dir():
        raise ValueError(explain_mismatch(f"{what} that is a file", f"{os.fspath(path)}, which is a folder"))
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(explain_mismatch(f"{what} in a folder that exists", os.fspath(path), "make the folder first"))


def check_names(names: Sequence[str] | None, classes: int) -> None:
    """Raises a ValueError if there are names of more or fewer classes than the outputs of a network."""
    if names is not None and len(names) != classes:
        raise ValueError(explain_mismatch(f"{len(names)} classes, as their names say", f"{classes} outputs"))


def class_name(names: Sequence[str] | None, number: int) -> str:
    """The name of a class, or its number if there are no names.

    Raises:
        ValueError: if there are fewer names.

    >>> class_name(["cat", "dog"], 1), class_name(None, 1)
    ('dog', '1')
    """
    if names is None:
        return str(number)
    if not 0 <= number < len(names):
        raise ValueError(explain_mismatch(f"a class of the {len(names)} that have names", f"the class {number}"))
    return names[number]
