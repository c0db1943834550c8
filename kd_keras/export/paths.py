"""The paths of exports: their suffixes, and the temporary path of an export that is not yet accepted."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from kd_keras.files import explain_full_disk, remove_abandoned, temporary_path


def check_suffix(file: str | Path, suffix: str) -> Path:
    """Checks the suffix of a path.

    Raises:
        ValueError: if the path has another suffix.

    >>> check_suffix("student.onnx", ".onnx").name
    'student.onnx'
    """
    if Path(file).suffix != suffix:
        raise ValueError(f"The name of this export must end in {suffix}, but received {str(file)!r}.")
    return Path(file)


def check_directory(directory: str | Path) -> Path:
    """Checks that a SavedModel can be written to a directory without deleting anything else.

    Raises:
        ValueError: if the directory contains other files than those of a SavedModel.
    """
    path = Path(directory)
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").exists():
        raise ValueError(
            f"A SavedModel is written to a directory that is new, empty or a SavedModel, but {path} contains other"
            " files. Choose another directory."
        )
    return path


def replace(staging: Path, path: Path) -> None:
    """Moves a finished export to its path; a directory that is there is deleted only afterwards."""
    earlier = temporary_path(path)
    if path.is_dir():
        path.rename(earlier)
    staging.replace(path)
    shutil.rmtree(earlier, ignore_errors=True)


@contextlib.contextmanager
def staging_path(path: Path) -> Iterator[Path]:
    """An unused path in the same directory, to write to before the export replaces `path`; deleted if it remains.

    Raises:
        OSError: if the disk is full; what is at `path` is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    staging = temporary_path(path)
    try:
        with explain_full_disk(path):
            yield staging
    finally:
        if staging.is_dir():
            shutil.rmtree(staging)
        staging.unlink(missing_ok=True)
