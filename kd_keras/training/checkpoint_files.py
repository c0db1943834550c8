"""The files of checkpoints, named by position and checksum: atomic writes, and reading the newest undamaged one."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_keras.files import remove_abandoned, write_atomically

DAMAGE = (OSError, ValueError, KeyError, zipfile.BadZipFile)  # the errors of reading a damaged checkpoint
NAME = re.compile(r"(?P<epoch>\d{5})_(?P<step>\d{8})_(?P<checksum>[0-9a-f]{16})(?P<best>_best)?\.npz")


class Position(NamedTuple):
    """A position in the training data: the number of complete epochs, and of complete steps of the current epoch."""

    epoch: int = 0
    step: int = 0


class State(NamedTuple):
    """The content of a checkpoint: its position, arrays in a fixed order, and numbers by name in `about`."""

    position: Position
    arrays: list[np.ndarray]
    about: dict[str, Any]


class FileName(NamedTuple):
    """The parts of a checkpoint's file name."""

    position: Position
    checksum: str
    is_best: bool

    @classmethod
    def parse(cls, path: Path) -> FileName | None:
        """The parts of a path's name, or `None` if it is not that of a checkpoint.

        >>> FileName.parse(Path("00002_00000007_0123456789abcdef_best.npz")).position
        Position(epoch=2, step=7)
        """
        match = NAME.fullmatch(path.name)
        if match is None:
            return None
        return cls(Position(int(match["epoch"]), int(match["step"])), match["checksum"], bool(match["best"]))

    def __str__(self) -> str:
        epoch, step = self.position
        return f"{epoch:05d}_{step:08d}_{self.checksum}{'_best' * self.is_best}.npz"


def write(directory: Path, state: State, *, keep: int = 2, best: bool = False) -> Path:
    """Writes a checkpoint, then deletes all but the `keep` newest and the best.

    Damaged checkpoints of later positions, from which the training could not resume, are deleted, too.

    Args:
        directory: the folder of the checkpoints; created if necessary.
        state: the content.
        keep: how many of the newest to keep.
        best: whether this one is the best so far.

    Returns:
        The path of the new file.

    Raises:
        OSError: if the disk is full or not writable. The earlier checkpoints are kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    memory = io.BytesIO()
    numbered: dict[str, Any] = {str(number): array for number, array in enumerate(state.arrays)}
    np.savez(memory, about=json.dumps(state.about), **numbered)
    content = memory.getvalue()
    path = directory / str(FileName(state.position, _checksum(content), best))
    write_atomically(path, lambda name: Path(name).write_bytes(content))
    for later in checkpoints(directory):
        # It would count as one of the newest, in place of this one.
        if _parse(later).position > state.position and _is_damaged(later):
            later.unlink(missing_ok=True)
    paths = checkpoints(directory)
    best_paths = [path for path in paths if _parse(path).is_best]
    for old in paths:
        if old not in paths[-keep:] and old not in best_paths[-1:]:
            old.unlink(missing_ok=True)
    remove_abandoned(directory)
    return path


def read(directory: Path, best: bool = False) -> State | None:
    """Reads the newest undamaged checkpoint, or the best one; `None` if there is none yet.

    A damaged checkpoint is skipped with a warning.

    Raises:
        ValueError: if there are checkpoints, but all are damaged.
    """
    paths = [path for path in checkpoints(directory) if not best or _parse(path).is_best]
    for path in reversed(paths):
        try:
            return _read(path)
        except DAMAGE as error:
            warnings.warn(f"The checkpoint {path} is damaged ({error}). The one before it is used.", stacklevel=2)
    if paths:
        raise ValueError(
            f"All {len(paths)} checkpoints in {directory} are damaged. Delete them to start the run again."
        )
    return None


def checkpoints(directory: Path) -> list[Path]:
    """The paths of the checkpoints in a directory, in the order of their positions: the newest is the last."""
    paths = [path for path in directory.glob("*.npz") if FileName.parse(path)]
    return sorted(paths, key=lambda path: (_parse(path).position, path.stat().st_mtime))


def _parse(path: Path) -> FileName:
    name = FileName.parse(path)
    if name is None:
        raise ValueError(
            f"Expected the name of a checkpoint, such as 00001_00000000_<checksum>.npz, but received {path}."
        )
    return name


def _read(path: Path) -> State:
    name, content = _parse(path), path.read_bytes()
    if _checksum(content) != name.checksum:
        raise ValueError("its content does not match its checksum")
    with np.load(io.BytesIO(content)) as file:
        about = json.loads(str(file["about"]))
        arrays = [file[str(number)] for number in range(len(file.files) - 1)]
    return State(name.position, arrays, about)


def _is_damaged(path: Path) -> bool:
    """Whether the content of a file is damaged; not if it only cannot be read now."""
    try:
        _read(path)
    except OSError:
        return False
    except DAMAGE:
        return True
    return False


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
