"""Reads and writes the files of a recording, with errors that name the file and say what to do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch
from kd_keras.files import write_atomically, write_json
from kd_keras.functions.digests import file_digest

RECORD_AGAIN = "record again with the same settings, which writes only missing and damaged files"
FRAME_HEAD = 12  # bytes of a TFRecord before its content


def read_json(path: Path, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """Reads a JSON file that contains a dictionary.

    Args:
        path: the file.
        keys: keys that the dictionary must have.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or lacks a key; the message names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in value] if isinstance(value, dict) else list(keys)
        reason = f"one without {', '.join(missing)}" if missing else "one of another kind"
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        value, missing, reason = None, [], f"a damaged one ({error})"
    if isinstance(value, dict) and not missing:
        return value
    raise ValueError(explain_mismatch(f"a complete JSON file {path}", reason, RECORD_AGAIN))


def save_json(path: Path, value: Any) -> None:
    """Writes plain values as JSON.

    Raises:
        OSError: if the disk is full or not writable; the message names the file.
    """
    with explain_failed_write(path):
        write_json(path, value)


def save_file(path: Path, write: Callable[[str], object]) -> None:
    """Writes a file with a function that receives its temporary name.

    Raises:
        OSError: if the disk is full or not writable; the message names the file.
    """
    with explain_failed_write(path):
        write_atomically(path, write)


@contextlib.contextmanager
def explain_failed_write(path: Path) -> Iterator[None]:
    """A context in which a failure to write becomes an OSError that names the file and says what to do.

    Raises:
        OSError: if the disk is full or not writable.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as failure:
        # `write_atomically` has already explained a full disk; the cause alone is shorter.
        cause = failure.__cause__ if isinstance(failure.__cause__, OSError) else failure
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise OSError(
            f"{path} cannot be written: {reason}. Free some space or make the directory writable, and run the same "
            "command again; finished shards are kept."
        ) from failure


class ShardFile:
    """The records of one shard. No file stays open, because a recording may have thousands of shards.

    Args:
        path: the file.
        rows: the number of its records.
        record_type: the layout of one record.

    Raises:
        ValueError: if the file has another length.
    """

    def __init__(self, path: Path, rows: int, record_type: np.dtype):
        self.path, self.rows, self.type = path, rows, record_type
        self._framed = np.dtype(
            [("length", "<u8"), ("length_checksum", "<u4"), ("row", record_type), ("checksum", "<u4")]
        )
        expected, received = rows * self._framed.itemsize, path.stat().st_size if path.is_file() else 0
        if received != expected:
            expected_file = f"a complete shard {path} of {expected:,} bytes"
            raise ValueError(explain_mismatch(expected_file, f"{received:,} bytes", RECORD_AGAIN))

    def __len__(self) -> int:
        return self.rows

    def column(self, name: str) -> np.ndarray:
        """One column of all records."""
        return np.array(np.memmap(self.path, self._framed, "r")["row"][name])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Some records `(B,)` by their row numbers `(B,)`."""
        records = np.empty(len(rows), self.type)
        with open(self.path, "rb", buffering=0) as file:
            for record, row in zip(records.view("uint8").reshape(len(rows), -1), rows.tolist(), strict=True):
                file.seek(row * self._framed.itemsize + FRAME_HEAD)
                if file.readinto(record.data) != self.type.itemsize:
                    raise ValueError(f"{self.path} became shorter while it was read. {RECORD_AGAIN.capitalize()}.")
        return records


def check_digest(path: Path, digest: str) -> None:
    """Compares a file with its checksum.

    Raises:
        ValueError: if the file does not exist, or has another checksum.
    """
    received = file_digest(path) if path.is_file() else ""
    if received != digest:
        other = "a file with another checksum" if received else "no file"
        raise ValueError(explain_mismatch(f"{path} with the checksum {digest[:12]}", other, RECORD_AGAIN))
