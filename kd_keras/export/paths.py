"""The paths of exports: their suffixes, and the temporary path of an export that is not yet accepted."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kd_keras.files import explain_full_disk, remove_abandoned, temporary_path

# What Keras and this project write into a SavedModel, which an export may replace.
SAVED_MODEL = {
    "assets",
    "assets.extra",
    "check.npz",
    "fingerprint.pb",
    "keras_metadata.pb",
    "saved_model.pb",
    "variables",
}


def check_suffix(file: str | Path, suffix: str) -> Path:
    """Checks the suffix of a path, and that it is no directory.

    Raises:
        ValueError: if the path has another suffix, or is a directory.

    >>> check_suffix("student.onnx", ".onnx").name
    'student.onnx'
    """
    if Path(file).suffix != suffix:
        raise ValueError(f"The name of this export must end in {suffix}, but received {str(file)!r}.")
    if Path(file).is_dir():
        raise ValueError(f"This export is a file, but {str(file)!r} is a directory. Choose another name, or move it.")
    return Path(file)


def check_directory(directory: str | Path) -> Path:
    """Checks that a SavedModel can be written to a directory without deleting anything else.

    Raises:
        ValueError: if there is a file, or the directory contains other files than those of a SavedModel.
    """
    path = Path(directory)
    if path.exists() and not path.is_dir():
        raise ValueError(f"A SavedModel is written to a directory, but {path} is a file. Choose another directory.")
    names = {file.name for file in path.iterdir() if not file.name.startswith(".")} if path.is_dir() else set()
    others = sorted(names - SAVED_MODEL if "saved_model.pb" in names else names)
    if others:
        raise ValueError(
            f"A SavedModel is written to a directory that is new, empty or a SavedModel, but {path} contains other"
            f" files, such as {others[0]}. Choose another directory."
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
