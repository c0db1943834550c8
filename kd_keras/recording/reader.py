"""A recording read: a teacher's outputs on disk, found by view and example, never by order.

A recording is a directory, written by `recording.record`:

    plan.json                  what is recorded, of what, and in which shards
    view-0000-00.tfrecord      rows of one view, one TFRecord each, all of one length
    view-0000-00.json          that shard's checksum and errors, written after it
    constants.npz              the teacher's own constants that some methods read
    manifest.json              the plan with all shards; a recording without it is not complete

All records are of one length (`records.record_type`), so a shard is also an array on disk, and any row of it can be
read without those before.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import threading
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.contracts import TapSpec
from kd_keras.errors import explain_mismatch
from kd_keras.networks.taps import Specs
from kd_keras.recording.format import columns, decode, kept_classes, record_type

FORMAT = 1
PACKAGES = ("tensorflow", "keras", "kd_keras")
VIEWS_OPEN = 4  # how many views' tables of examples are kept


def software() -> dict[str, str]:
    """The versions that a recording notes."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def teacher_identity(teacher: Any) -> dict[str, Any]:
    """What tells a `Teacher` from another: its networks' weights and how they are combined. A `preprocess` function has
    no such identity; comparing a sample finds another one."""
    several = len(teacher.networks) > 1
    return {
        "weights": [weights_digest(network) for network in teacher.networks],
        "combine": [teacher.combine, list(teacher.weights)] if several else "one network",
        "class_order": teacher.class_order,
    }


def weights_digest(network: Any) -> str:
    """SHA-256 of a network's weights, their shapes and types, in order."""
    digest = hashlib.sha256()
    for variable in network.weights:
        array = np.asarray(variable)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two sets of plain values, or an empty text.

    >>> differences({"seed": 0, "augmentation": "none"}, {"seed": 1, "augmentation": "none"})
    'seed: recorded 0, now 1'
    """
    now = json.loads(json.dumps(now))  # tuples become lists, as in the file
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(f"{name}: recorded {before.get(name)}, now {now.get(name)}" for name in names)


class Recording:
    """A complete recording, opened to be read.

    Every shard is held against its checksum when a view's first example is read from it.

    Args:
        directory: where it is.

    Attributes:
        views: how many of every example.
        examples: how many examples there are.
        specs: what the taps deliver, as a live teacher's.
        plan: everything else that was written down.

    Raises:
        ValueError: where it is incomplete, damaged or of another format.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        try:
            self.plan = json.loads((self.directory / "manifest.json").read_text())
        except FileNotFoundError as error:
            came = f"{self.directory} without manifest.json"
            remedy = "run experiments.record again with the same flags: it goes on where it stopped"
            raise ValueError(explain_mismatch("a complete recording", came, remedy)) from error
        if self.plan.get("format") != FORMAT:
            raise ValueError(explain_mismatch(f"a recording of format {FORMAT}", str(self.plan.get("format")), "record anew"))
        changed = differences(self.plan["software"], software())
        if changed:
            warnings.warn(f"{self.directory} was recorded with other software: {changed}.", stacklevel=3)
        self.views, self.examples = self.plan["views"], self.plan["examples"]
        self.specs = Specs(read_specs(self.plan["taps"]), _Constants(self.directory))
        self.type = record_type(self.specs, self.plan["logits"])
        self._checked: set[str] = set()
        self._open: dict[int, tuple] = {}
        self._lock = threading.Lock()
        for shard in self.plan["shards"]:
            self._rows(shard)

    def check(self, section: str, now: Mapping[str, Any]) -> None:
        """Holds a section of what was written down (`"images"` or `"teacher"`) against what is now.

        Raises:
            ValueError: with what differs.
        """
        changed = differences(self.plan[section], now)
        if changed:
            needed = f"the {section} that {self.directory} was made with"
            raise ValueError(explain_mismatch(needed, changed, "train with the same flags as recorded, or record anew"))

    def __call__(self, view: tf.Tensor, index: tf.Tensor) -> dict[str, Any]:
        """The taps of some examples, in a `tf.data` pipeline: `(B, ...)` float32, a tuple of them for stages.

        Args:
            view: () integer, below `views`.
            index: `(B,)` int64 example numbers.
        """
        flat = tf.numpy_function(self.read, [view, index], [tf.float32 for _ in columns(self.specs)], stateful=False)
        found: dict[str, list] = {}
        for (tap, _, spec), tensor in zip(columns(self.specs), flat):
            found.setdefault(tap, []).append(tf.ensure_shape(tensor, (*index.shape, *spec.shape[1:])))
        return {tap: tuple(each) if isinstance(self.specs[tap], list) else each[0] for tap, each in found.items()}

    def read(self, view: int, index: np.ndarray) -> list[np.ndarray]:
        """The taps of some examples in the order of `columns`, `(B, ...)` float32 each.

        Raises:
            ValueError: for an example that was not recorded, or a damaged shard.
        """
        shards, places = self._view(int(view))
        inside = (index >= 0) & (index < self.examples)
        place = np.where(inside, places[np.where(inside, index, 0)], -1)
        if (place < 0).any():
            missing = index[place < 0][:5].tolist()
            raise ValueError(explain_mismatch("examples that were recorded", f"{missing} of view {view} in {self.directory}"))
        records = np.empty(len(index), self.type)
        starts = np.cumsum([0, *map(len, shards)])
        of_shard = np.searchsorted(starts, place, side="right") - 1
        for number in np.unique(of_shard):
            chosen = of_shard == number
            records[chosen] = shards[number][place[chosen] - starts[number]]
        return decode(records, self.specs)

    def _view(self, view: int) -> tuple[list[np.ndarray], np.ndarray]:
        """A view's shards and, for each example, its place in them or -1."""
        with self._lock:
            if view not in self._open:
                shards = [self._whole(shard) for shard in self.plan["shards"] if shard["view"] == view]
                index = np.concatenate([rows["index"] for rows in shards])
                places = np.full(self.examples, -1, "int64")
                places[index] = np.arange(len(index))
                self._open[view] = shards, places
                for old in list(self._open)[:-VIEWS_OPEN]:
                    del self._open[old]
            return self._open[view]

    def _rows(self, shard: Mapping[str, Any]) -> np.ndarray:
        """The records of a shard as an array on disk, of the length that they must have."""
        framed = np.dtype([("length", "<u8"), ("length_checksum", "<u4"), ("row", self.type), ("checksum", "<u4")])
        path = self.directory / shard["file"]
        needed, came = shard["rows"] * framed.itemsize, path.stat().st_size if path.exists() else 0
        if came != needed:
            remedy = "record again with the same flags: only what is missing or damaged is written anew"
            raise ValueError(explain_mismatch(f"a whole shard {path} of {needed:,} bytes", f"{came:,} bytes", remedy))
        return np.memmap(path, framed, "r")["row"]

    def _whole(self, shard: Mapping[str, Any]) -> np.ndarray:
        """The records of a shard, whose checksum has been compared."""
        rows, path = self._rows(shard), self.directory / shard["file"]
        if shard["file"] not in self._checked:
            if file_digest(path) != shard["sha256"]:
                remedy = "record again with the same flags: only what is missing or damaged is written anew"
                raise ValueError(explain_mismatch(f"{path} with the checksum {shard['sha256'][:12]}", "another", remedy))
            self._checked.add(shard["file"])
        return rows

    def verify(self) -> None:
        """Compares every checksum, and looks that each view has each of its examples once and finite values alone.

        Raises:
            ValueError: with the first shard or view that fails.
        """
        for view in range(self.views):
            shards, places = self._view(view)
            count = sum(map(len, shards))
            if (places >= 0).sum() != count or count != self.plan["rows"]:
                came = f"{(places >= 0).sum():,} different ones in {count:,} rows"
                raise ValueError(explain_mismatch(f"{self.plan['rows']:,} examples in view {view}, once each", came))
            for rows in shards:
                for name in self.type.names[1:]:
                    if not np.isfinite(rows[name]).all():
                        raise ValueError(explain_mismatch("finite values", f"{name} of view {view} in {self.directory}"))

    def compare(self, outputs: Mapping[str, Any], recorded: Mapping[str, Any], allowed: float = 2e-3) -> float:
        """Holds a live teacher's outputs for one batch against the recorded ones of the same batch.

        Args:
            outputs: of the live teacher, tap by tap.
            recorded: what rides in that batch.
            allowed: the largest relative difference: by default what storage as float16, which keeps eleven bits, and
                other threads and devices explain.

        Returns:
            The largest difference, relative to the largest value of its tap.

        Raises:
            ValueError: where a value differs by more than is allowed. Of logits kept as top-k the k largest
                are compared.
        """
        worst = 0.0
        for tap, column, _ in columns(self.specs):
            number = int(column.rsplit("/", 1)[1])
            live, kept = (np.asarray(side[tap][number] if isinstance(side[tap], (list, tuple)) else side[tap])
                          for side in (outputs, recorded))
            k = kept_classes(self.plan["logits"]) if tap == "logits" else None
            if k:
                order = np.argsort(kept, axis=-1)[..., -k:]
                live, kept = (np.take_along_axis(side, order, axis=-1) for side in (live, kept))
            difference = np.abs(live - kept).max() / max(np.abs(live).max(), 1e-6)
            if not difference <= allowed:
                remedy = "is it the same network, with the same preprocess= and the same images? Else record anew"
                came = f"a relative difference of {difference:.2g} in {column}"
                raise ValueError(explain_mismatch(f"the live teacher's outputs as {self.directory} has them", came, remedy))
            worst = max(worst, float(difference))
        return worst


class _Constants:
    """Stands for the walked network behind a recorded teacher's specifications, as `taps.Graph` would."""

    def __init__(self, directory: Path):
        self.path = directory / "constants.npz"

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path) as file:
            return {name: file[name] for name in file.files}

    def _of(self, *names: str) -> tuple[np.ndarray, ...]:
        if not set(names) <= set(self._arrays):
            remedy = "train with the live teacher, or record one that has them"
            raise ValueError(explain_mismatch(f"the teacher's {' and '.join(names)}", f"{self.path} without", remedy))
        return tuple(self._arrays[name] for name in names)

    def classifier_weights(self) -> tuple[np.ndarray, ...]:
        return self._of("classifier/kernel", "classifier/bias")

    def tap(self, name: str) -> list[str]:
        return sorted({key.rsplit("/", 1)[0] for key in self._arrays if key.startswith(f"{name}/")})

    def batch_norm(self, column: str) -> tuple[np.ndarray, ...]:
        return self._of(f"{column}/scale", f"{column}/offset")


def read_specs(taps: Mapping[str, Any]) -> dict[str, Any]:
    """Specifications from their form in JSON: `[layer, shape]`, or a list of these for stages."""

    def spec(entry: list) -> Any:
        return TapSpec(entry[0], tuple(entry[1])) if isinstance(entry[0], str) else [spec(each) for each in entry]

    return {tap: spec(entry) for tap, entry in taps.items()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _, _ = file.write(b"whole"), file.flush()
    ...     print(file_digest(Path(file.name))[:8])
    5d5766cf
    """
    return hashlib.sha256(np.memmap(path, "uint8", "r")).hexdigest()
