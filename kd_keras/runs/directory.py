"""The directory of a run: whether a path can be one, and how its content is deleted."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kd_keras.files import TEMPORARY
from kd_keras.runs.lock import LOCK


def check_place(path: Path, overwrite: bool = False) -> None:
    """Checks that a path is a run, or a new or empty directory.

    Args:
        path: the directory.
        overwrite: whether its content will be deleted, which must then contain no other run.

    Raises:
        ValueError: if it is anything else, or another run would be deleted with it.
    """
    if path.exists() and not (path / "flags.txt").exists() and not (path.is_dir() and _is_unused(path)):
        raise ValueError(
            f"{path} is not a run and not empty. Name a new or empty directory, or the directory of a run."
        )
    nested = sorted(file.parent for file in path.rglob("flags.txt") if file.parent != path) if overwrite else []
    if nested:
        others = f" and {len(nested) - 1} more" if len(nested) > 1 else ""
        raise ValueError(
            "Expected a directory without other runs, because overwrite=True (in the shell --overwrite) deletes "
            f"everything in it, but {path} contains the run {nested[0]}{others}. Move or delete them first, or choose "
            "another directory."
        )


def check_keeps(path: str | os.PathLike, sources: Iterable[Any]) -> None:
    """Checks that a run that overwrites a directory does not delete what it starts from or learns from.

    Args:
        path: the directory that is overwritten.
        sources: networks, recordings and files of the new run: paths, or anything else, which is in memory.

    Raises:
        ValueError: if one of them is in the directory.
    """
    directory = Path(path).resolve()
    for source in sources:
        if isinstance(source, (str, os.PathLike)) and Path(source).exists():
            place = Path(source).resolve()
            if directory in (place, *place.parents):
                raise ValueError(
                    "Expected a directory without what the run needs, because overwrite=True (in the shell"
                    f" --overwrite) deletes everything in it, but {os.fspath(source)} is in {os.fspath(path)}. Choose"
                    " another directory."
                )


def empty_run(directory: Path) -> None:
    """Deletes the content of a run, except the lock that this process holds."""
    # If this is interrupted, the rest must still be a run, which is not complete.
    (directory / "result.json").unlink(missing_ok=True)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, "flags.txt"):
            path.unlink()
    (directory / "flags.txt").unlink()
    with contextlib.suppress(OSError):  # it contains the lock
        directory.rmdir()


def _is_unused(directory: Path) -> bool:
    """Whether a directory is empty, apart from a lock and from unfinished files."""
    return all(path.name == LOCK or path.name.startswith(TEMPORARY) for path in directory.iterdir())
