"""Constants of a teacher's network that some methods read: its classifier, and its BatchNorm scales and offsets."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.networks.specs import Specs
from kd_keras.recording.files import RECORD_AGAIN, check_digest, save_file

FILE = "constants.npz"


def write_constants(directory: Path, specs: Specs) -> None:
    """Writes constants.npz with those of the constants that the teacher has.

    Raises:
        OSError: if the disk is full or not writable.
    """
    arrays: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # the logits are not one linear layer of an embedding
        classifier = specs.classifier()
        if classifier is not None:
            arrays |= dict(zip(("classifier/kernel", "classifier/bias"), classifier, strict=True))
    if "classifier/kernel" not in arrays:
        with contextlib.suppress(ValueError):  # no classifier reads the embedding
            centers = specs.class_centers()
            arrays |= {} if centers is None else {"classifier/centers": centers}
    for tap in specs:
        with contextlib.suppress(ValueError):  # the maps of this tap do not come from a BatchNorm
            for number, (scale, offset) in enumerate(specs.batch_norms(tap) or []):
                arrays |= {f"{tap}/{number:03d}/scale": scale, f"{tap}/{number:03d}/offset": offset}
    save_file(directory / FILE, lambda name: np.savez(name, **arrays))


class RecordedConstants:
    """The constants of a recorded teacher, with the methods by which `Specs` reads those of a live network.

    Args:
        directory: the directory of the recording.
        digest: the checksum of the file, or `None` for a recording that has no checksum of it.
    """

    def __init__(self, directory: Path, digest: str | None = None):
        self.path, self.digest = directory / FILE, digest

    def check(self) -> None:
        """Compares the file with its checksum, and reads it.

        Raises:
            ValueError: if it is damaged.
        """
        _ = self._arrays

    def classifier_weights(self) -> tuple[np.ndarray, ...]:
        """The kernel `(D, K)` and the bias `(K,)` of the classifier, float32."""
        return self._select("classifier/kernel", "classifier/bias")

    def class_centers(self) -> np.ndarray:
        """The direction `(D, K)` of each class in the space of the embedding, float32."""
        name = "classifier/kernel" if "classifier/kernel" in self._arrays else "classifier/centers"
        return self._select(name)[0]

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, ...]]:
        """The scale and the offset `(C,)` of the BatchNorm behind each map of a tap, float32."""
        columns = sorted({key.rsplit("/", 1)[0] for key in self._arrays if key.startswith(f"{tap}/")})
        return [self._select(f"{column}/scale", f"{column}/offset") for column in columns]

    def layer(self, tap: str) -> None:
        """`None`: a recording has no layers."""

    def between(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """`None`: a recording has no layers."""

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        if self.digest is not None:
            check_digest(self.path, self.digest)
        try:
            with np.load(self.path) as file:
                return {name: file[name] for name in file.files}
        except Exception as error:  # NumPy and zipfile raise several types for a damaged file
            reason = f"a damaged one ({str(error).splitlines()[0][:100] if str(error) else type(error).__name__})"
            raise ValueError(explain_mismatch(f"a complete file {self.path}", reason, RECORD_AGAIN)) from error

    def _select(self, *names: str) -> tuple[np.ndarray, ...]:
        if not set(names) <= set(self._arrays):
            advice = "train with the live teacher, or record a teacher that has them"
            expected = f"the teacher's {' and '.join(names)}"
            raise ValueError(explain_mismatch(expected, f"{self.path} without them", advice))
        return tuple(self._arrays[name] for name in names)
