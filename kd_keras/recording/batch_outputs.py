"""Records a function as a teacher: it is asked once for each batch, even if the recording is interrupted.

Its outputs for each batch are kept in `batches-<plan>/` until the shard of the batch is complete, because a function
may be slow, or cost money.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_keras.contracts import Batch, as_batch
from kd_keras.errors import explain_mismatch
from kd_keras.functions import FunctionTeacher
from kd_keras.networks.specs import Specs
from kd_keras.recording.files import read_json, save_file
from kd_keras.recording.plan import Request, Shard, plan_digest


def ready_function(
    teacher: FunctionTeacher, request: Request, directory: Path, first_batch: Callable[[], Any]
) -> FunctionTeacher:
    """The function with the specifications of its outputs: those of the recording if it was begun, else of one batch.

    Args:
        teacher: the function.
        request: the settings of the recording.
        directory: of the recording.
        first_batch: returns the first batch that this worker records.

    Raises:
        ValueError: if the function has outputs for the original images only and the views differ from them, if it has
            one for each example but their numbers differ, or if its outputs for the batch are not what a recording
            needs.
    """
    views = request.view_settings
    if teacher.origin.has_only_originals and (views.changes_images or views.mixes_batches):
        advice = "leave out the augmentation, or record a teacher that can be asked"
        received = f"the augmentation {views.augmentation!r}"
        expected = f"the images as they are for {teacher.origin.name}, which has no predictions for views of them"
        raise ValueError(explain_mismatch(expected, received, advice))
    rows, size = teacher.origin.rows, request.source.size
    if rows is not None and rows != size:  # the rows may be those of another split
        expected = f"{size:,} rows in {teacher.origin.name}, one for each example of {request.source.name!r}"
        advice = 'add an array "index" with the number of each row\'s example in this split, from 0'
        raise ValueError(explain_mismatch(expected, f"{rows:,} rows without their numbers", advice))
    with contextlib.suppress(FileNotFoundError, ValueError):  # `plan.begin` repairs a damaged plan
        taps = read_json(directory / "plan.json", ("taps",))["taps"]
        if list(taps) == [teacher.tap]:
            return teacher.with_specs(Specs.from_config(taps), request.source.classes)
    batch = as_batch(first_batch())
    return teacher.probed(np.asarray(batch.inputs), np.asarray(batch.index), request.source.classes)


class BatchOutputs:
    """The outputs of a function for batches whose shard is not complete.

    Args:
        directory: of the recording.
        plan: of the recording; the outputs for another plan are not read.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any]):
        self.directory = directory / f"batches-{plan_digest(plan)[:16]}"

    def runner(self, teacher: FunctionTeacher) -> Callable[[Shard, int, Batch], Mapping[str, Any]]:
        """Returns a function from a batch to its outputs, which asks the teacher only if they are not kept yet."""

        def run(shard: Shard, step: int, batch: Batch) -> Mapping[str, Any]:
            index, path = np.asarray(batch.index), self._path(shard, step)
            kept = _read(path, index)
            if kept is None:
                kept = teacher(np.asarray(batch.inputs), index)[teacher.tap]
                self.directory.mkdir(exist_ok=True)
                save_file(path, lambda name: np.savez(name, index=index, outputs=kept))
            return {teacher.tap: kept}

        return run

    def forget(self, shard: Shard) -> None:
        """Deletes the outputs of a complete shard."""
        for step in range(shard.begin, shard.end):
            self._path(shard, step).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it has outputs of other shards
            self.directory.rmdir()

    def _path(self, shard: Shard, step: int) -> Path:
        return self.directory / f"view-{shard.view:04d}-{step:06d}.npz"


def _read(path: Path, index: np.ndarray) -> np.ndarray | None:
    """The outputs in a file, or `None` if there is none, it is damaged, or it belongs to other examples."""
    try:
        with np.load(path) as file:
            return file["outputs"] if np.array_equal(file["index"], index) else None
    except Exception:  # NumPy and zipfile raise several types for a damaged file
        return None
