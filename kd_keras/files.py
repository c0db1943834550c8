"""Atomic writes: a file either has its complete new content or keeps its old one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TEMPORARY = ".writing-"  # the prefix of the names of unfinished files
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ALMOST_FULL = 1 << 20  # bytes; writers of which the error has no number fail when less is free


def temporary_path(path: Path) -> Path:
    """An unused path in the same directory, whose name contains the process, the host and the name of `path`.

    >>> temporary_path(Path("runs/model.keras")).name.endswith("-model.keras")
    True
    """
    # The process id alone is not unique if several machines write to one shared disk.
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{socket.gethostname()}-{secrets.token_hex(4)}-{path.name}")


def remove_abandoned(directory: Path) -> None:
    """Removes the unfinished files in a directory of processes of this machine that no longer exist.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> mine = temporary_path(directory / "a.txt")
    >>> mine.touch()
    >>> remove_abandoned(directory)
    >>> mine.exists()  # its process still runs
    True
    """
    name = re.compile(rf"{re.escape(TEMPORARY)}(\d+)-{re.escape(socket.gethostname())}-[0-9a-f]{{8}}-.*", re.DOTALL)
    for path in directory.glob(f"{TEMPORARY}*"):
        match = name.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            _remove(path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


@contextlib.contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turns the errors of writers on a full disk, which are of many types, into one sentence that names the path.

    Raises:
        OSError: if the disk of `path` is full, a quota is used up, or the file is too large for the disk.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        directory = next(parent for parent in path.absolute().parents if parent.exists())
        is_request = isinstance(error, (ValueError, TypeError))  # a rejected value has nothing to do with the disk
        if number not in FULL and (is_request or shutil.disk_usage(directory).free >= ALMOST_FULL):
            raise
        reason = os.strerror(number) if number in FULL else os.strerror(errno.ENOSPC)
        raise OSError(
            f"{path} cannot be written ({reason}), and what was there before is kept. Free space on the disk, and "
            "repeat the command."
        ) from error


def write_atomically(path: str | os.PathLike, write: Callable[[str], object]) -> None:
    """Writes a file under a temporary name in the same directory, flushes it to the disk, and renames it.

    A reader sees the old file or the complete new one, also after a crash or a power failure. The temporary name is
    unique to this process and this call, so several processes may write the same path at once: the last one wins.

    Args:
        path: the file to write. Its directory must exist.
        write: writes the file whose name it receives. The name has the suffix of `path`, because some writers choose
            their format by it.

    Raises:
        OSError: if the disk is full or not writable. The temporary file is removed, and the old file is kept.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> write_atomically(path, lambda name: Path(name).write_text("complete"))
    >>> path.read_text()
    'complete'
    """
    path = Path(path)
    temporary = temporary_path(path)
    try:
        with explain_full_disk(path):
            write(str(temporary))
            _flush_to_disk(temporary)
            temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file atomically, in UTF-8 and with the line ends of `text`.

    Names of files that are not UTF-8 keep their own bytes.

    Raises:
        OSError: if the disk is full or not writable. The old file is kept.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> write_text(path, "naïve")
    >>> path.read_bytes()
    b'na\\xc3\\xafve'
    """
    content = text.encode("utf-8", "surrogateescape")
    write_atomically(path, lambda name: Path(name).write_bytes(content))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes plain values as JSON atomically, one value per line, so that two files can be compared with `diff`.

    Raises:
        TypeError: if JSON has no form for a value. Nothing is written.
        OSError: if the disk is full or not writable. The old file is kept.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(path, {"seed": 0})
    >>> path.read_text()
    '{\\n "seed": 0\\n}\\n'
    """
    write_text(path, json.dumps(value, indent=1) + "\n")


def _flush_to_disk(path: Path) -> None:
    """Writes a file's content to the disk; otherwise a power failure after the rename may leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    # The error that interrupted the write must reach the caller, not an error of the cleanup.
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
