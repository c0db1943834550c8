"""Locks the directory of a run, so that only one process at a time trains it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kd_keras.files import explain_full_disk, remove_abandoned

try:
    import fcntl
except ImportError:  # Windows has no flock; runs are not locked there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
BUSY = (errno.EWOULDBLOCK, errno.EACCES)
LOGGER = logging.getLogger("kd_keras")


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory, in which other processes then cannot train.

    The directory is created if necessary, and removed at the end if it is still empty. The operating system releases
    the lock of a process that ends in any way, so a killed process leaves nothing that must be removed.

    Args:
        directory: the directory of a run.

    Raises:
        ValueError: if another process, or another thread of this one, holds the lock; the message names the process.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp()) / "run"
    >>> with lock_directory(directory):
    ...     directory.exists()
    True
    >>> directory.exists()
    False
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    file = _acquire(directory)
    try:
        remove_abandoned(directory)
        yield
    finally:
        # Removed before it is released: otherwise this process could remove the lock of the next one.
        (directory / LOCK).unlink(missing_ok=True)
        file.close()
        for path in missing:
            with contextlib.suppress(OSError):  # it has content
                path.rmdir()


def _acquire(directory: Path) -> IO[str]:
    """Opens the lock file of a directory, and locks it."""
    while True:
        path = directory / LOCK
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+")  # keeps what its holder wrote
        except (FileNotFoundError, FileExistsError):  # another process has just removed the directory, which was empty
            if os.path.lexists(directory) and not directory.is_dir():
                raise
            continue
        try:
            _lock(file, directory)
            if _is_same_file(file, path):
                started = datetime.datetime.now().isoformat(" ", "seconds")
                with explain_full_disk(path):
                    file.truncate(0)
                    file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": started}))
                    file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its earlier holder removed it while this process opened it


def _lock(file: IO[str], directory: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in BUSY:
            LOGGER.warning(
                "%s cannot be locked, because its file system has no locks (%s). Start only one program on it.",
                directory, error.strerror,
            )  # fmt: skip
            return
        raise ValueError(
            f"Expected a run that no other process trains, but {directory} is in use by {_describe_holder(file)}. "
            "Wait until it ends, or choose another directory."
        ) from error


def _describe_holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # it has not written its name yet
        return "another process"


def _is_same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
