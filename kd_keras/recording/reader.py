"""Reads a recording: a teacher's outputs on disk, looked up by view and example number.

`plan.py` describes the directory. All records have one length (`format.record_type`), so any row of a shard can be read
without the rows before it.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.data.python_calls import call_python
from kd_keras.errors import explain_mismatch
from kd_keras.networks.specs import Specs
from kd_keras.recording.constants import RecordedConstants
from kd_keras.recording.files import RECORD_AGAIN, ShardFile, check_digest, read_json
from kd_keras.recording.format import columns, decode, record_type, select_column, stored_classes
from kd_keras.recording.identity import describe_changes, software_versions
from kd_keras.recording.plan import MANIFEST_KEYS, SHARD_KEYS, check_format, plan_of

OPEN_VIEWS = 4  # the number of views whose tables of examples stay in memory


class Recording:
    """A complete recording, opened for reading.

    Every shard is compared with its checksum when the first example of its view is read.

    Args:
        directory: the recording's directory.

    Attributes:
        views: the number of views of each example.
        examples: the number of examples.
        specs: what the taps deliver, as `Teacher.specs`.
        plan: the content of manifest.json.

    Raises:
        ValueError: if the recording is incomplete, damaged or of another format.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.plan = _read_manifest(self.directory)
        changes = describe_changes(self.plan["software"], software_versions())
        if changes:
            warnings.warn(f"{self.directory} was recorded with other software: {changes}.", stacklevel=3)
        self.views, self.examples = self.plan["views"], self.plan["examples"]
        self._constants = RecordedConstants(self.directory, self.plan.get("constants"))
        self.specs = Specs.from_config(self.plan["taps"], self._constants)
        self.type = record_type(self.specs, self.plan["logits"])
        self._checked: set[str] = set()
        self._open_views: dict[int, tuple[list[ShardFile], np.ndarray]] = {}
        self._lock = threading.Lock()
        self._shards = {
            shard["file"]: ShardFile(self.directory / shard["file"], shard["rows"], self.type)
            for shard in self.plan["shards"]
        }

    @property
    def combine(self) -> str | None:
        """How the logits of several teachers were combined, "probabilities" or "logits"; `None` if there was one."""
        combine = self.plan["teacher"].get("combine")
        return combine[0] if isinstance(combine, list) else None

    def check(self, section: str, current: Mapping[str, Any]) -> None:
        """Compares a section of the plan with current values.

        Args:
            section: "images" or "teacher".
            current: the values that the section must have.

        Raises:
            ValueError: if they differ; the message lists the differences.
        """
        changes = describe_changes(self.plan[section], current)
        if changes:
            expected = f"the {section} with which {self.directory} was recorded"
            advice = "train with the same settings, or record the teacher again in another directory"
            raise ValueError(explain_mismatch(expected, changes, advice))

    def __call__(self, view: tf.Tensor, index: tf.Tensor) -> dict[str, Any]:
        """The taps of some examples, in a `tf.data` pipeline: `(B, ...)` float32, a tuple of them for stages.

        Args:
            view: () integer, below `views`.
            index: `(B,)` int64 example numbers.
        """
        types = [tf.float32 for _ in columns(self.specs)]
        tensors = call_python(self.read, [view, index], types)
        taps: dict[str, list] = {}
        for (tap, _, spec), tensor in zip(columns(self.specs), tensors, strict=True):
            taps.setdefault(tap, []).append(tf.ensure_shape(tensor, (*index.shape, *spec.shape[1:])))
        return {tap: tuple(maps) if isinstance(self.specs[tap], list) else maps[0] for tap, maps in taps.items()}

    def read(self, view: int, index: np.ndarray) -> list[np.ndarray]:
        """The taps of some examples in the order of `columns`, `(B, ...)` float32 each.

        Args:
            view: the number of the view, below `views`.
            index: `(B,)` integer example numbers.

        Raises:
            ValueError: if an example was not recorded, or a shard is damaged.
        """
        shards, row_of_example = self._open_view(int(view))
        in_range = (index >= 0) & (index < self.examples)
        row = np.where(in_range, row_of_example[np.where(in_range, index, 0)], -1)
        if (row < 0).any():
            missing = index[row < 0][:5].tolist()
            received = f"{missing}, which view {view} of {self.directory} does not have"
            advice = "train on the examples that were recorded, or record these too"
            raise ValueError(explain_mismatch("examples that were recorded", received, advice))
        records = np.empty(len(index), self.type)
        starts = np.cumsum([0, *map(len, shards)])
        shard_of_row = np.searchsorted(starts, row, side="right") - 1
        for number in np.unique(shard_of_row):
            is_in_shard = shard_of_row == number
            records[is_in_shard] = shards[number].read(row[is_in_shard] - starts[number])
        return decode(records, self.specs)

    def verify(self) -> None:
        """Compares every checksum, and checks that each view has each example once and only finite values.

        Raises:
            ValueError: if a check fails, with the file or view.
        """
        self._constants.check()
        self._check_notes()
        for view in range(self.views):
            shards, row_of_example = self._open_view(view)
            count, distinct = sum(map(len, shards)), int((row_of_example >= 0).sum())
            if distinct != count or count != self.plan["rows"]:
                expected = f"{self.plan['rows']:,} examples in view {view} of {self.directory}, once each"
                raise ValueError(explain_mismatch(expected, f"{distinct:,} different ones in {count:,} rows"))
            for shard in shards:
                for name in (self.type.names or ())[1:]:
                    if not np.isfinite(shard.column(name)).all():
                        raise ValueError(f"View {view} of {self.directory} has non-finite values in {name}.")

    def compare(self, outputs: Mapping[str, Any], recorded: Mapping[str, Any], tolerance: float = 2e-3) -> float:
        """Compares a live teacher's outputs for one batch with the recorded outputs of the same batch.

        Args:
            outputs: of the live teacher, by tap.
            recorded: the recorded outputs that travel with the batch, by tap.
            tolerance: the largest accepted relative difference. The default allows for storage as float16, which has
                eleven bits of precision, and for other threads and devices.

        Returns:
            The largest difference, relative to the largest value of its tap. For logits stored as top-k, only the k
            largest are compared.

        Raises:
            ValueError: if a value differs by more than the tolerance.
        """
        worst = 0.0
        for tap, column, _ in columns(self.specs):
            live, stored = (np.asarray(select_column(side, tap, column)) for side in (outputs, recorded))
            k = stored_classes(self.plan["logits"]) if tap == "logits" else None
            if k:
                order = np.argsort(stored, axis=-1)[..., -k:]
                live, stored = (np.take_along_axis(side, order, axis=-1) for side in (live, stored))
            difference = np.abs(live - stored).max() / max(np.abs(live).max(), 1e-6)
            if not difference <= tolerance:
                expected = f"a live teacher whose outputs are those in {self.directory}"
                received = f"a relative difference of {difference:.2g} in {column}"
                advice = "use the same network, preprocess= and images, or record the teacher again"
                raise ValueError(explain_mismatch(expected, received, advice))
            worst = max(worst, float(difference))
        return worst

    def _open_view(self, view: int) -> tuple[list[ShardFile], np.ndarray]:
        """The shards of a view and, for each example, its row in their concatenation, or -1 if it has none."""
        with self._lock:
            if view not in self._open_views:
                shards = [self._check_shard(shard) for shard in self.plan["shards"] if shard["view"] == view]
                index = np.concatenate([shard.column("index") for shard in shards])
                row_of_example = np.full(self.examples, -1, "int64")
                row_of_example[index] = np.arange(len(index))
                self._open_views[view] = shards, row_of_example
                for oldest in list(self._open_views)[:-OPEN_VIEWS]:
                    del self._open_views[oldest]
            return self._open_views[view]

    def _check_shard(self, shard: Mapping[str, Any]) -> ShardFile:
        """The records of a shard, after a comparison with its checksum."""
        file = self._shards[shard["file"]]
        if shard["file"] not in self._checked:
            check_digest(file.path, shard["sha256"])
            self._checked.add(shard["file"])
        return file

    def _check_notes(self) -> None:
        """Compares plan.json and the notes of the shards, by which a recording is continued, with the manifest."""
        notes = [(self.directory / "plan.json", plan_of(self.plan))]
        for shard in self.plan["shards"]:
            note = {key: value for key, value in shard.items() if key == "rows" or key not in SHARD_KEYS}
            notes.append(((self.directory / shard["file"]).with_suffix(".json"), note))
        for path, expected in notes:
            try:
                changes = describe_changes(expected, read_json(path))
            except FileNotFoundError:
                changes = "no file"
            if changes:
                raise ValueError(explain_mismatch(f"{path} as in manifest.json", changes, RECORD_AGAIN))


def _read_manifest(directory: Path) -> dict[str, Any]:
    """The content of manifest.json.

    Raises:
        ValueError: if the recording is incomplete, damaged or of another format.
    """
    path = directory / "manifest.json"
    try:
        plan = read_json(path, ("format",))
        check_format(directory, plan)
        return read_json(path, MANIFEST_KEYS)
    except FileNotFoundError as error:
        received = f"{directory} without manifest.json"
        advice = "record again with the same settings, which resumes if interrupted"
        raise ValueError(explain_mismatch("a complete recording", received, advice)) from error
