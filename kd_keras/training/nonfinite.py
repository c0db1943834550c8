"""The callback that stops a run at a non-finite step with a report, or skips the batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kd_keras.contracts import as_batch
from kd_keras.errors import check_choice
from kd_keras.training.guard import NonFiniteStep

CHOICES = ("stop", "skip")


class NonFinite(keras.callbacks.Callback):
    """Stops a run, or skips the batch, if the loss or a gradient is not finite.

    `Distiller.fit` adds one that stops, unless it receives one. In both cases the batch changes no weight or statistic.

    Args:
        on_nonfinite: "stop" raises; "skip" warns and continues as if the batch did not exist.
        directory: the folder for `nonfinite_<epoch>_<step>.npz`, which contains the epoch, the step, the names and
            values of the terms of the loss and, with `replay`, the batch: `index` `(B,)`, `label` and `images`. `None`
            writes nothing.
        replay: a function of an epoch and a step in it that returns this batch again, with the example numbers.
        start: the epoch, and the step in it, at which this `fit` begins.

    Raises:
        ValueError: if `on_nonfinite` is neither of these.
        FloatingPointError: from `fit`, with the step and the terms; with "skip" only if an epoch has no finite step.

    >>> NonFinite("skip").on_nonfinite
    'skip'
    """

    def __init__(
        self,
        on_nonfinite: str = "stop",
        directory: str | Path | None = None,
        replay: Callable[[int, int], Any] | None = None,
        start: tuple[int, int] = (0, 0),
    ):
        super().__init__()
        self.on_nonfinite = check_choice("NonFinite", "on_nonfinite", on_nonfinite, CHOICES)
        self.replay = replay
        self.directory = None if directory is None else Path(directory)
        self.epoch, self.start = 0, tuple(start)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch, self._steps, self._skipped = epoch, 0, 0
        self.model.guard.reset(self.start[1] if epoch == self.start[0] else 0)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        failure = self.model.guard.pop_nonfinite_step()
        self._steps = batch + 1
        if failure is None:
            return
        self._skipped += failure.total
        path = self._save(failure)
        report = f"{_describe(failure)} in epoch {self.epoch}, step {failure.step}"
        report += f", saved in {path}" if path else ""
        if self.on_nonfinite == "skip":
            warnings.warn(f"Skipped a batch: {report}.", stacklevel=2)
            return
        raise FloatingPointError(
            f"Expected a finite loss and finite gradients, but received {report}. Lower the learning rate, check the "
            f"batch, or pass on_nonfinite='skip'. {self._advice(failure)}".rstrip()
        )

    def _advice(self, failure: NonFiniteStep) -> str:
        """What to check for the methods whose terms are not finite."""
        spoiled = [name for name, value in failure.terms.items() if not np.isfinite(value)]
        return " ".join(method.nonfinite_advice for method in self.model.methods if method.name in spoiled)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self._steps and self._skipped == self._steps:
            raise FloatingPointError(
                f"Expected batches with a finite loss, but no step of epoch {epoch} had one, so that nothing was "
                "trained. Lower the learning rate, or check the data and the teacher."
            )

    def _save(self, failure: NonFiniteStep) -> Path | None:
        """Writes the step, and the batch if there is a `replay`; returns the path, or `None` without a directory."""
        if self.directory is None:
            return None
        values = np.array(list(failure.terms.values()), "float32")
        arrays: dict[str, Any] = {"epoch": self.epoch, "step": failure.step}
        arrays |= {"terms": list(failure.terms), "values": values}
        if self.replay:
            batch = as_batch(self.replay(self.epoch, failure.step))
            columns = {"index": batch.index, "label": batch.label, "images": batch.inputs}
            arrays |= {name: np.asarray(column) for name, column in columns.items() if column is not None}
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"nonfinite_{self.epoch}_{failure.step}.npz"
        np.savez(path, **arrays)
        return path


def raise_if_nonfinite(failure: NonFiniteStep | None) -> None:
    """Reports a step outside `fit`.

    Raises:
        FloatingPointError: if there is a failure.
    """
    if failure is not None:
        raise FloatingPointError(
            f"Expected a finite loss and finite gradients, but received {_describe(failure)}. The batch changed no "
            "variable. Lower the learning rate, or check the batch."
        )


def _describe(failure: NonFiniteStep) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in failure.terms.items())
