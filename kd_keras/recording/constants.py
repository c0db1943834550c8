"""Constants of a teacher's network that some methods read: its classifier, and its BatchNorm scales and offsets."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.files import write_atomically
from kd_keras.networks.taps import Specs


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
    for tap in specs:
        with contextlib.suppress(ValueError):  # the maps of this tap do not come from a BatchNorm
            for number, (scale, offset) in enumerate(specs.batch_norms(tap) or []):
                arrays |= {f"{tap}/{number:03d}/scale": scale, f"{tap}/{number:03d}/offset": offset}
    write_atomically(directory / "constants.npz", lambda name: np.savez(name, **arrays))


class RecordedConstants:
    """The constants of a recorded teacher, with the methods by which `Specs` reads those of a live network."""

    def __init__(self, directory: Path):
        self.path = directory / "constants.npz"

    def classifier_weights(self) -> tuple[np.ndarray, ...]:
        """The kernel `(D, K)` and the bias `(K,)` of the classifier, float32."""
        return self._select("classifier/kernel", "classifier/bias")

    def batch_norms(self, tap: str) -> list[tuple[np.ndarray, ...]]:
        """The scale and the offset `(C,)` of the BatchNorm behind each map of a tap, float32."""
        columns = sorted({key.rsplit("/", 1)[0] for key in self._arrays if key.startswith(f"{tap}/")})
        return [self._select(f"{column}/scale", f"{column}/offset") for column in columns]

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path) as file:
            return {name: file[name] for name in file.files}

    def _select(self, *names: str) -> tuple[np.ndarray, ...]:
        if not set(names) <= set(self._arrays):
            advice = "train with the live teacher, or record a teacher that has them"
            raise ValueError(explain_mismatch(f"the teacher's {' and '.join(names)}", f"{self.path} without", advice))
        return tuple(self._arrays[name] for name in names)
