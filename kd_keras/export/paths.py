"""The paths of exports: their suffixes, and the temporary path of an export that is not yet accepted."""

from __future__ import annotations

import contextlib
import os
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
    if path.is_dir():
        path.rename(_earlier(path))
    staging.replace(path)
    _recover(path)


def _earlier(path: Path) -> Path:
    """Where the earlier directory is while a new one replaces it; the name is not that of an abandoned file."""
    return path.with_name(f".earlier-{path.name}")


def _recover(path: Path) -> None:
    """Puts the earlier directory back if nothing has replaced it, and deletes it otherwise."""
    earlier = _earlier(path)
    if not os.path.lexists(path):
        if earlier.exists():
            earlier.rename(path)
    elif earlier.is_symlink():
        earlier.unlink()
    else:
        shutil.rmtree(earlier, ignore_errors=True)


@contextlib.contextmanager
def staging_path(path: Path) -> Iterator[Path]:
    """An unused path in the same directory, to write to before the export replaces `path`; deleted if it remains.

    If a process was killed while it replaced `path`, what was there before is first put back.

    Raises:
        OSError: if the disk is full; what is at `path` is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    remove_abandoned(path.parent)
    staging = temporary_path(path)
    try:
        with explain_full_disk(path):
            yield staging
    finally:
        if staging.is_dir():
            shutil.rmtree(staging)
        staging.unlink(missing_ok=True)
        _recover(path)
