"""The plan of a recording: which taps of which teacher, for which images, and in which shards.

A recording is a directory:

    plan.json                  the taps, the teacher and the images
    view-0000-00.tfrecord      a shard: examples of one view, one record each, all of one length
    view-0000-00.json          the checksum and the storage errors of that shard, written after it
    constants.npz              constants of the teacher that some methods read
    manifest.json              the plan with the list of all shards and the checksum of the constants; without it, a
                               recording is incomplete
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_keras.data.base import Source
from kd_keras.data.descriptions import describe_views
from kd_keras.data.settings import BatchSettings, ViewSettings, check_whole
from kd_keras.errors import explain_mismatch
from kd_keras.functions import FunctionTeacher
from kd_keras.networks.specs import Specs
from kd_keras.recording.files import explain_failed_write, read_json, save_json
from kd_keras.recording.format import record_type
from kd_keras.recording.identity import LiveTeacher, describe_changes, software_versions, teacher_identity

FORMAT = 2  # since 2, the teacher receives pixel values from 0 to 255
MAX_SHARDS = 16  # of each view; workers divide shards, and lose an unfinished one if they are interrupted
FRAME = 16  # bytes that TFRecord adds to a record
PLAN_KEYS = (
    "format", "taps", "logits", "views", "examples", "rows", "teacher", "images", "software", "files", "batch_size",
)  # fmt: skip
MANIFEST_KEYS = (*PLAN_KEYS, "shards")

logger = logging.getLogger("kd_keras")


class Shard(NamedTuple):
    """One file of a recording.

    Attributes:
        number: its number among the shards of all views, from 0.
        file: its name.
        view: the view of its examples.
        begin: the first batch of the view that it contains.
        end: the batch after the last one.
        rows: the number of examples.
    """

    number: int
    file: str
    view: int
    begin: int
    end: int
    rows: int


SHARD_KEYS = Shard._fields


@dataclass(frozen=True)
class Request:
    """The settings of a recording, except the teacher.

    Attributes:
        source: the examples.
        view_settings: what decides the pixels of the views.
        batching: how the images of one view become batches.
        views: V, the number of views of each example.
        logits: the storage form of logits, one of `format.FORMS`.

    Raises:
        ValueError: if `views` is below 1, or the source gives its examples in another order in each pass.
    """

    source: Source
    view_settings: ViewSettings
    batching: BatchSettings
    views: int = 1
    logits: str = "float32"

    def __post_init__(self) -> None:
        check_whole(1, views=self.views)
        describe_views(self.source, self.view_settings, self.batching)  # before a slow or paid function is asked

    def shards(self) -> list[Shard]:
        """All shards, in the order in which a single worker writes them."""
        steps, size = self.batching.count_steps(self.source), self.batching.batch_size
        bounds = np.unique(np.linspace(0, steps, min(MAX_SHARDS, steps) + 1).astype(int)).tolist()
        ends = [min(bound * size, self.source.size) for bound in bounds]
        count = len(bounds) - 1
        return [
            Shard(
                number=view * count + part,
                file=f"view-{view:04d}-{part:02d}.tfrecord",
                view=view,
                begin=bounds[part],
                end=bounds[part + 1],
                rows=ends[part + 1] - ends[part],
            )
            for view in range(self.views)
            for part in range(count)
        ]

    def plan(self, teacher: LiveTeacher | FunctionTeacher, specs: Specs) -> dict[str, Any]:
        """The content of plan.json, the same for every worker."""
        shards = self.shards()
        plan = {
            "format": FORMAT,
            "taps": specs.get_config(),
            "logits": self.logits,
            "views": self.views,
            "examples": self.source.size,
            "rows": sum(shard.rows for shard in shards if shard.view == 0),
            "teacher": teacher_identity(teacher),
            "images": describe_views(self.source, self.view_settings, self.batching),
            "software": software_versions(),
            "files": len(shards),
            "batch_size": self.batching.batch_size,
        }
        if self.source.class_names is not None:
            plan["class_names"] = self.source.class_names
        return json.loads(json.dumps(plan))

    def row_bytes(self, specs: Specs) -> int:
        """The number of bytes of one example on the disk."""
        return record_type(specs, self.logits).itemsize + FRAME


def begin(directory: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Writes the plan into a new directory, checks it against an existing plan, or replaces a damaged one.

    Returns:
        The plan of the recording; without the names of the classes if an earlier version started it.

    Raises:
        ValueError: if the directory contains other files, or a recording with other settings (with the differences).
        OSError: if the directory is not writable.
    """
    with explain_failed_write(directory):
        directory.mkdir(parents=True, exist_ok=True)
    path = directory / "plan.json"
    recorded = _read_plan(directory)
    if recorded is not None:
        check_format(directory, recorded)
        if "class_names" not in recorded:
            plan = {key: value for key, value in plan.items() if key != "class_names"}
        changes = describe_changes(_flatten(recorded), _flatten(plan))
        if changes:
            advice = "pass the same settings, or choose another directory"
            raise ValueError(explain_mismatch(f"the settings with which {directory} was started", changes, advice))
    elif path.exists():
        _forget_shards(directory, plan)
    elif any(not file.name.startswith(".") for file in directory.iterdir()):
        received = f"{directory}, which has other files"
        raise ValueError(explain_mismatch("a new directory or a recording", received, "choose another directory"))
    if _read_whole(path) is None:
        save_json(path, plan)
    return plan


def plan_digest(plan: Mapping[str, Any]) -> str:
    """The digest by which the JSON file of a shard identifies its plan if plan.json is damaged."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def plan_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The plan within a manifest."""
    return {key: manifest[key] for key in (*PLAN_KEYS, "class_names") if key in manifest}


def _read_whole(path: Path, keys: tuple[str, ...] = ("format",)) -> dict[str, Any] | None:
    try:
        return read_json(path, keys)
    except (FileNotFoundError, ValueError):
        return None


def _read_plan(directory: Path) -> dict[str, Any] | None:
    """The plan of a recording; if plan.json is damaged, the one in the manifest; `None` if there is none."""
    manifest = _read_whole(directory / "manifest.json", MANIFEST_KEYS)
    return _read_whole(directory / "plan.json") or (manifest and plan_of(manifest))


def _forget_shards(directory: Path, plan: dict[str, Any]) -> None:
    """Deletes the notes of shards that were not made by this plan, so that these shards are written again."""
    logger.warning("%s is damaged. It and all shards of other settings are written again.", directory / "plan.json")
    for note in directory.glob("view-*.json"):
        content = _read_whole(note, ("plan",))
        if content is None or content["plan"] != plan_digest(plan):
            note.unlink()


def check_format(directory: Path, plan: Mapping[str, Any]) -> None:
    """Checks that a recording has the format of this version of kd_keras.

    Raises:
        ValueError: if the recording has another format.
    """
    if plan.get("format") != FORMAT:
        raise ValueError(
            f"{directory} is a recording of format {plan.get('format')}, but this version of kd_keras reads format "
            f"{FORMAT}, for which the teacher receives pixel values from 0 to 255. Record the teacher again in another "
            "directory."
        )


def _flatten(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan without nested dictionaries: a section becomes entries such as "images seed"."""
    sections = {key: value for key, value in plan.items() if isinstance(value, dict)}
    entries = {key: value for key, value in plan.items() if key not in sections}
    return entries | {f"{key} {name}": value for key, section in sections.items() for name, value in section.items()}
