"""A teacher's outputs written to disk, once: views of every example, in shards that several workers share."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kd_keras.contracts import Batch, Outputs, as_batch
from kd_keras.data import Source, steps_per_epoch, training
from kd_keras.data.pipeline import described
from kd_keras.distribute.slices import map_over_replicas
from kd_keras.errors import explain_mismatch
from kd_keras.files import write_atomically
from kd_keras.networks.taps import Specs
from kd_keras.recording.format import TEMPERATURES, decode, divergence, encode, record_type
from kd_keras.recording.reader import FORMAT, Recording, differences, file_digest, software, teacher_identity

SHARDS = 16  # of each view, where it has so many batches: what is lost when a worker is stopped, and can be shared
FRAME = 16  # bytes that TFRecord adds to a record


class Shard(NamedTuple):
    """The `number`-th part of a recording: the batches `begin` to `end` of one view, in a file of `rows` records."""

    number: int
    file: str
    view: int
    begin: int
    end: int
    rows: int


def record(
    directory: str | os.PathLike,
    teacher: Any,
    source: Source,
    *,
    taps: Sequence[str] = ("logits",),
    views: int = 1,
    logits: str = "float32",
    part: tuple[int, int] = (0, 1),
    say: Callable[[str], None] = print,
    batch_size: int = 128,
    drop_remainder: bool = False,
    **view: Any,
) -> Recording | None:
    """Runs a teacher over views of every example and writes what its taps say; goes on where it was stopped.

    The seed and the augmentation are all that is kept of the images: `data.training` with the same ones makes the same
    views again, with its partners where batches are mixed.

    Args:
        directory: of the recording; made if need be.
        teacher: a `Teacher`.
        source: the examples.
        taps: what to record.
        views: V, at least 1, of every example; epoch e of a training shows view e mod V.
        logits: how logits are kept: `"float32"`, `"float16"` or `"top-<k>"`, the k largest and the mass of the rest.
            All other taps are kept as float16.
        part: (i, n), this worker's share: the i-th of n, from 0.
        say: is told the size before it starts, and each shard.
        batch_size: images in one pass; where batches are mixed, those of the training.
        drop_remainder: as in `data.training`.
        **view: `image_size`, `augmentation`, `normalisation`, `seed` and `cache`, as in `data.training`.

    Returns:
        The recording, or `None` where other workers' shards are still missing.

    Raises:
        ValueError: where the directory holds another recording (with what differs), there is too little room, or the
            teacher's outputs are not finite or do not fit into float16.
        OSError: where the disk fills; finished shards stay, and the same call goes on with the others.

    >>> import tempfile, keras
    >>> from kd_keras.teacher import Teacher
    >>> black = tf.data.Dataset.range(4).map(lambda i: {"image": tf.zeros((2, 2, 1), tf.uint8), "index": i})
    >>> network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> source = Source(black, name="black", size=4, image_shape=(2, 2, 1))
    >>> record(tempfile.mkdtemp(), Teacher(network), source, views=2, say=lambda text: None).views
    2
    """
    ready = teacher.tapped(taps)
    view |= {"batch_size": batch_size, "drop_remainder": drop_remainder}
    size = record_type(ready.specs, logits).itemsize + FRAME
    plan, shards = _plan(teacher, ready.specs, source, views, logits, view)
    directory = Path(directory)
    _begin(directory, plan, part)
    own = shards[part[0] * len(shards) // part[1] : (part[0] + 1) * len(shards) // part[1]]
    missing = [shard for shard in own if _finished(directory, shard) is None]
    _check_room(directory, size, plan, missing, say)
    if missing:
        (directory / "manifest.json").unlink(missing_ok=True)  # whole again with what is written now
        write_atomically(directory / f".constants-{part[0]}.npz", lambda name: np.savez(name, **_constants(ready.specs)))
        (directory / f".constants-{part[0]}.npz").replace(directory / "constants.npz")
    answer = tf.function(map_over_replicas(lambda images: dict(ready(images))), reduce_retracing=True)
    for together in _consecutive(missing):
        batches = iter(_batches(source, together, views, view))
        for shard in together:
            read = (as_batch(next(batches)) for _ in range(shard.begin, shard.end))
            records, error = _records(shard, read, answer, ready.specs, logits)
            _write(directory, shard, records, error)
            say(f"{directory / shard.file}: {shard.rows:,} examples of view {shard.view}.")
    return _finish(directory, plan, shards, part)


def _plan(
    teacher: Any, specs: Specs, source: Source, views: int, logits: str, view: dict[str, Any]
) -> tuple[dict[str, Any], list[Shard]]:
    """What is to be recorded, the same for every worker, and in which shards, in order."""
    if isinstance(views, bool) or not isinstance(views, int) or views < 1:
        raise ValueError(explain_mismatch("views: a whole number of at least 1", repr(views)))
    size, remainder = view["batch_size"], view["drop_remainder"]
    steps = steps_per_epoch(source, size, remainder)
    marks = np.unique(np.linspace(0, steps, min(SHARDS, steps) + 1).astype(int)).tolist()
    ends = [min(mark * size, source.size) for mark in marks]
    parts = [(marks[p], marks[p + 1], ends[p + 1] - ends[p]) for p in range(len(marks) - 1)]
    names = [(v, f"view-{v:04d}-{p:02d}.tfrecord", part) for v in range(views) for p, part in enumerate(parts)]
    shards = [Shard(number, file, v, *part) for number, (v, file, part) in enumerate(names)]
    plain = {tap: [list(one) for one in s] if isinstance(s, list) else list(s) for tap, s in specs.items()}
    plan = {"format": FORMAT, "taps": plain, "logits": logits, "views": views, "examples": source.size}
    plan |= {"rows": sum(shard.rows for shard in shards if shard.view == 0), "teacher": teacher_identity(teacher)}
    plan |= {"images": described(source, **view), "software": software(), "files": len(shards), "batch_size": size}
    return json.loads(json.dumps(plan)), shards


def _begin(directory: Path, plan: dict[str, Any], part: tuple[int, int]) -> None:
    """Writes the plan, or holds it against the one that stands there."""
    if not 0 <= part[0] < part[1]:
        raise ValueError(explain_mismatch("part (i, n) with i of 0 to n - 1", repr(part)))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "plan.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = differences(_flat(before), _flat(plan))
        if changed:
            needed = f"what {directory} was begun with"
            raise ValueError(explain_mismatch(needed, changed, "the same flags, or another directory"))
    elif any(not each.name.startswith(".") for each in directory.iterdir()):
        raise ValueError(explain_mismatch("a new directory or a recording", f"{directory}, which holds something else"))
    else:
        _write_json(path, plan, part)


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan with its sections unfolded."""
    sections = {key: value for key, value in plan.items() if isinstance(value, dict)}
    rest = {key: value for key, value in plan.items() if key not in sections}
    return rest | {f"{key} {name}": value for key, section in sections.items() for name, value in section.items()}


def _write_json(path: Path, content: dict[str, Any], part: tuple[int, int]) -> None:
    # Several workers may write the same at once: each beside, under a name of its own.
    own = path.with_name(f".{path.stem}-{part[0]}.json")
    write_atomically(own, lambda name: Path(name).write_text(json.dumps(content, indent=1)))
    own.replace(path)


def _check_room(
    directory: Path, size: int, plan: dict[str, Any], missing: list[Shard], say: Callable[[str], None]
) -> None:
    """Says how large it becomes, and stops where the disk has less room than this worker's part needs."""
    free = shutil.disk_usage(directory).free
    needed, whole = size * sum(shard.rows for shard in missing), size * plan["rows"] * plan["views"]
    say(f"{directory}: {plan['views']} views of {plan['rows']:,} examples at {size:,} bytes, {whole:,} bytes in "
        f"{plan['files']} shards; {needed:,} of them to write here, {free:,} free.")
    if needed > free:
        remedy = "fewer views or taps, logits as float16 or top-<k>, or another disk"
        raise ValueError(explain_mismatch(f"{needed:,} bytes on the disk of {directory}", f"{free:,}", remedy))


def _constants(specs: Specs) -> dict[str, np.ndarray]:
    """The teacher's own values that some methods read of it, as far as it has them."""
    found = {}
    with contextlib.suppress(ValueError):  # its logits are not one linear layer of an embedding
        found |= dict(zip(("classifier/kernel", "classifier/bias"), specs.classifier() or ()))
    for tap, spec in specs.items():
        with contextlib.suppress(ValueError):  # its maps do not come from a BatchNorm
            norms = specs.batch_norms(tap) or []
            for number, (scale, offset) in enumerate(norms):
                found |= {f"{tap}/{number:03d}/scale": scale, f"{tap}/{number:03d}/offset": offset}
    return found


def _finished(directory: Path, shard: Shard) -> dict[str, Any] | None:
    """What was noted of a shard that is whole; `None` where it must be written."""
    path, note = directory / shard.file, (directory / shard.file).with_suffix(".json")
    if not (path.exists() and note.exists()):
        return None
    noted = json.loads(note.read_text())
    return noted if file_digest(path) == noted["sha256"] else None


def _consecutive(shards: list[Shard]) -> list[list[Shard]]:
    """Runs of shards that one pass over the images makes."""
    runs = itertools.groupby(enumerate(shards), key=lambda pair: pair[1].number - pair[0])
    return [[shard for _, shard in run] for _, run in runs]


def _batches(source: Source, together: list[Shard], views: int, view: dict[str, Any]) -> tf.data.Dataset:
    """The batches of consecutive shards; in reading order, unless a view depends on its batch."""
    first, last = together[0], together[-1]
    augmentation = view.get("augmentation")
    return training(
        source,
        shuffle=augmentation is not None and augmentation.mixes,
        views=views,
        start_epoch=first.view,
        start_step=first.begin,
        epochs=last.view - first.view + 1,
        with_index=True,
        **view,
    )


def _records(
    shard: Shard, batches: Iterator[Batch], answer: Callable[[Any], Outputs], specs: Specs, logits: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """The records of a shard, and how far what is kept of the logits is from them."""
    records, errors = [], []
    for batch in batches:
        outputs = answer(batch.inputs)
        records.append(encode(outputs, np.asarray(batch.index), specs, logits))
        if "logits" in specs and logits != "float32":
            (kept,) = decode(records[-1], {"logits": specs["logits"]})
            error = divergence(np.asarray(outputs["logits"], "float32"), kept)
            errors.append(error.reshape(len(TEMPERATURES), -1))
    found = np.concatenate(records)
    if len(found) != shard.rows:
        raise ValueError(explain_mismatch(f"{shard.rows} examples in {shard.file}", f"{len(found)} came of the images"))
    if not errors:
        return found, {}
    each = np.concatenate(errors, axis=1)
    return found, {f"T={t}": [row.mean(), row.max()] for t, row in zip(TEMPERATURES, each)}


def _write(directory: Path, shard: Shard, records: np.ndarray, error: dict[str, Any]) -> None:
    def write(name: str) -> None:
        with tf.io.TFRecordWriter(name) as file:
            for one in records:
                file.write(one.tobytes())

    path = directory / shard.file
    try:
        write_atomically(path, write)
    except (OSError, tf.errors.OpError) as failure:
        remedy = "make room and give the same command again: finished shards stay"
        raise OSError(explain_mismatch(f"to write {path}", str(failure).splitlines()[0], remedy)) from failure
    note = {"rows": shard.rows, "sha256": file_digest(path), "error": error}
    write_atomically(path.with_suffix(".json"), lambda name: Path(name).write_text(json.dumps(note)))


def _finish(directory: Path, plan: dict[str, Any], shards: list[Shard], part: tuple[int, int]) -> Recording | None:
    """Writes the manifest where every worker's shards are there."""
    manifest = directory / "manifest.json"
    if not manifest.exists():
        notes = [directory / Path(shard.file).with_suffix(".json") for shard in shards]
        if not all(note.exists() for note in notes):
            return None
        listed = [{**shard._asdict(), **json.loads(note.read_text())} for shard, note in zip(shards, notes)]
        _write_json(manifest, {**plan, "shards": listed}, part)
    return Recording(directory)
