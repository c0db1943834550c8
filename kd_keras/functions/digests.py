"""What identifies the file of a teacher."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kd_keras.errors import explain_mismatch


def describe_file(path: Path, suffix: str, kind: str) -> str:
    """A file in the words of a message.

    Raises:
        ValueError: if there is no such file, or it has another suffix.
    """
    if path.suffix != suffix or not path.is_file():
        received = f"{path}, which {'has another suffix' if path.exists() else 'does not exist'}"
        raise ValueError(explain_mismatch(f"the path of a file for {kind} that ends in {suffix}", received))
    return f"the {kind} file {path.name!r}"


def file_digest(*paths: Path) -> str:
    """SHA-256 of one file or of several.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _, _ = file.write(b"whole"), file.flush()
    ...     print(file_digest(Path(file.name))[:8])
    5d5766cf
    """
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
