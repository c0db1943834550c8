"""The files of checkpoints: written beside and renamed, with their checksum in the name, the newest whole one first."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.files import write_atomically

NAME = re.compile(r"(?P<epoch>\d{5})_(?P<step>\d{8})_(?P<sum>[0-9a-f]{16})(?P<best>_best)?\.npz")


class Position(NamedTuple):
    """How much of the data lies behind: whole epochs, and steps of the one begun."""

    epoch: int = 0
    step: int = 0


class State(NamedTuple):
    """What a checkpoint holds: its position, arrays in a fixed order, and a few numbers and texts."""

    position: Position
    arrays: list[np.ndarray]
    about: dict[str, Any]


def write(directory: Path, state: State, *, keep: int = 2, best: bool = False) -> Path:
    """Writes a checkpoint, and then deletes those that are neither among the `keep` newest nor the best.

    Args:
        directory: where the checkpoints stand; made if need be.
        state: what to keep.
        keep: how many of the newest to keep.
        best: whether this one is the best so far.

    Raises:
        OSError: where the disk is full or not writable; the checkpoints before it stay.
    """
    directory.mkdir(parents=True, exist_ok=True)
    memory = io.BytesIO()
    numbered = {str(number): array for number, array in enumerate(state.arrays)}
    np.savez(memory, about=json.dumps(state.about), **numbered)
    content = memory.getvalue()
    name = f"{state.position.epoch:05d}_{state.position.step:08d}_{_sum(content)}{'_best' * best}.npz"
    write_atomically(directory / name, lambda beside: _to_disk(beside, content))
    found = checkpoints(directory)
    bests = [path for path in found if _part(path, "best")]
    for path in found:
        if path not in found[-keep:] and path not in bests[-1:]:
            path.unlink(missing_ok=True)
    for torn in directory.glob(".writing-*"):  # of a process that was killed while it wrote
        torn.unlink(missing_ok=True)
    return directory / name


def read(directory: Path, best: bool = False) -> State | None:
    """The newest whole checkpoint, or the best one; `None` where there is none yet.

    A damaged one is passed over, with a message on the standard error.

    Raises:
        ValueError: where there are some and none of them is whole.
    """
    found = [path for path in checkpoints(directory) if not best or _part(path, "best")]
    for path in reversed(found):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(f"{path} is damaged ({error}): going on from the one before it.", file=sys.stderr, flush=True)
    if found:
        remedy = "begin the run anew"
        raise ValueError(explain_mismatch(f"a whole checkpoint in {directory}", f"{len(found)}, all damaged", remedy))
    return None


def _read(path: Path) -> State:
    content = path.read_bytes()
    if _sum(content) != _part(path, "sum"):
        raise ValueError("its content is not what was written")
    with np.load(io.BytesIO(content)) as file:
        about = json.loads(str(file["about"]))
        arrays = [file[str(number)] for number in range(len(file.files) - 1)]
    return State(Position(int(_part(path, "epoch")), int(_part(path, "step"))), arrays, about)


def checkpoints(directory: Path) -> Sequence[Path]:
    """The checkpoints of a directory by their position, the newest last."""
    found = [path for path in directory.glob("*.npz") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (int(_part(path, "epoch")), int(_part(path, "step")), path.stat().st_mtime))


def _part(path: Path, part: str) -> str | None:
    return NAME.fullmatch(path.name)[part]


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _to_disk(name: str, content: bytes) -> None:
    with open(name, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a machine that loses its power must not have renamed an empty file
