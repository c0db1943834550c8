"""Files that are whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | Path, write: Callable[[str], object]) -> None:
    """Writes a file beside its place and renames it there, so that a failed write leaves the old file whole.

    Args:
        path: where the file shall stand.
        write: writes the file whose name it is given; the name keeps the ending of `path`.

    Raises:
        OSError: where the disk is full or not writable; the half-written file is removed.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "a.txt"
    >>> write_atomically(place, lambda name: Path(name).write_text("whole"))
    >>> place.read_text()
    'whole'
    """
    path = Path(path)
    beside = path.with_name(f".writing-{path.name}")
    try:
        write(str(beside))
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
