"""Writes a teacher's outputs for views of every example to disk, in shards that several workers can divide."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.contracts import Batch, as_batch
from kd_keras.data import ImageAugmentation, Source, training
from kd_keras.data.settings import BatchSettings, ViewSettings
from kd_keras.distribute.slices import map_over_replicas
from kd_keras.errors import explain_mismatch
from kd_keras.functions import FunctionTeacher
from kd_keras.functions.digests import file_digest
from kd_keras.networks.specs import Specs
from kd_keras.recording import constants
from kd_keras.recording.batch_outputs import BatchOutputs, ready_function
from kd_keras.recording.files import read_json, save_file, save_json
from kd_keras.recording.format import TEMPERATURES, decode, divergence, encode
from kd_keras.recording.identity import LiveTeacher
from kd_keras.recording.plan import Request, Shard, begin, plan_digest
from kd_keras.recording.reader import Recording

LOG = logging.getLogger("kd_keras")
NOTE_KEYS = ("rows", "sha256", "error")


def record(
    directory: str | os.PathLike,
    teacher: LiveTeacher | FunctionTeacher,
    source: Source,
    *,
    taps: Sequence[str] = ("logits",),
    views: int = 1,
    logits: str = "float32",
    shard: tuple[int, int] = (0, 1),
    batch_size: int = 128,
    image_size: tuple[int, int] | None = None,
    augmentation: ImageAugmentation | None = None,
    seed: int = 0,
    cache: bool = True,
    drop_remainder: bool = False,
) -> Recording | None:
    """Runs a teacher over views of every example and writes its outputs; resumes if interrupted.

    Images are not stored: `data.training` repeats the same views from the seed and the augmentation, with the same
    partners if batches are mixed.

    Args:
        directory: the directory of the recording; created if necessary.
        teacher: a `Teacher`, which receives float32 images 0..255, or a function, which is asked once for each batch,
            even if the recording is interrupted.
        source: the examples.
        taps: the names of the taps to record.
        views: V, the number of views of every example, at least 1; epoch e of a training shows view e mod V.
        logits: the storage form of logits: `"float32"`, `"float16"` or `"top-<k>"`, the k largest and the probability
            of the rest. All other taps are stored as float16.
        shard: (i, n): this worker records the i-th of n parts, i from 0.
        batch_size: the number of images in one pass; if batches are mixed, it must be that of the training.
        image_size: as in `data.training`.
        augmentation: as in `data.training`.
        seed: as in `data.training`.
        cache: as in `data.training`.
        drop_remainder: as in `data.training` if batches are mixed; otherwise every example is recorded.

    Returns:
        The recording, or `None` if the shards of other workers are still missing.

    Raises:
        ValueError: if `shard`, `views`, `logits` or a tap is invalid, the teacher's weights depend on labels, the
            directory contains another recording (with the differences), the disk has too little space, or the
            teacher's outputs are not finite or too large for float16.
        OSError: if the disk is full. Finished shards are kept, and the same call resumes with the others.

    >>> import tempfile, keras
    >>> from kd_keras.teacher import Teacher
    >>> black = tf.data.Dataset.range(4).map(lambda i: {"image": tf.zeros((2, 2, 1), tf.uint8), "index": i})
    >>> network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> source = Source(black, name="black", size=4, image_shape=(2, 2, 1))
    >>> record(tempfile.mkdtemp(), Teacher(network), source, views=2).views
    2
    """
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be (i, n) with i from 0 to n - 1, but received {shard!r}.")
    settings = ViewSettings(image_size, augmentation, seed)
    batching = BatchSettings(batch_size, drop_remainder and settings.mixes_batches, settings.mixes_batches, cache)
    request = Request(source, settings, batching, views, logits)
    directory, shards = Path(directory), request.shards()
    assigned = shards[shard[0] * len(shards) // shard[1] : (shard[0] + 1) * len(shards) // shard[1]]
    tapped: Any = teacher.tapped(taps)
    if isinstance(tapped, FunctionTeacher):
        first = _make_batches(request, assigned[:1] or shards[:1])
        tapped = ready_function(tapped, request, directory, lambda: next(iter(first)))
    row_bytes = request.row_bytes(tapped.specs)  # before anything is written, because it checks the storage form
    plan = begin(directory, request.plan(teacher, tapped.specs))
    missing = [file for file in assigned if not _is_complete(directory, file)]
    _check_disk_space(directory, row_bytes, plan, missing)
    if missing or not _has_constants(directory):
        (directory / "manifest.json").unlink(missing_ok=True)  # incomplete until the missing files exist
        constants.write_constants(directory, tapped.specs)
    kept = BatchOutputs(directory, plan) if isinstance(tapped, FunctionTeacher) else None
    run = _live_runner(tapped) if kept is None else kept.runner(tapped)
    for group in _group_consecutive(missing):
        batches = iter(_make_batches(request, group))
        for file in group:
            _write_shard(directory, file, plan, *_run_teacher(file, batches, run, tapped.specs, logits))
            if kept is not None:
                kept.forget(file)
            LOG.info(f"{directory / file.file}: {file.rows:,} examples of view {file.view}.")
    return _finish(directory, plan, shards)


def _check_disk_space(directory: Path, row_bytes: int, plan: dict[str, Any], missing: list[Shard]) -> None:
    """Logs the size of the recording, and raises ValueError if the missing shards need more space than is free."""
    free = shutil.disk_usage(directory).free
    needed, whole = row_bytes * sum(shard.rows for shard in missing), row_bytes * plan["rows"] * plan["views"]
    LOG.info(
        f"{directory}: {plan['views']} views of {plan['rows']:,} examples at {row_bytes:,} bytes, {whole:,} bytes in "
        f"{plan['files']} shards; {needed:,} bytes to write here, {free:,} bytes free."
    )
    if needed > free:
        advice = "record fewer views or taps, store logits as float16 or top-<k>, or use another disk"
        raise ValueError(explain_mismatch(f"{needed:,} free bytes on the disk of {directory}", f"{free:,}", advice))


def _is_complete(directory: Path, shard: Shard) -> bool:
    path = directory / shard.file
    try:
        return path.is_file() and file_digest(path) == read_json(path.with_suffix(".json"), NOTE_KEYS)["sha256"]
    except (FileNotFoundError, ValueError):  # an interrupted recording, or a damaged note
        return False


def _has_constants(directory: Path) -> bool:
    """Whether the constants have the checksum in the manifest, if there is one."""
    path = directory / constants.FILE
    try:
        return path.is_file() and file_digest(path) == read_json(directory / "manifest.json").get("constants")
    except (FileNotFoundError, ValueError):
        return False


def _group_consecutive(shards: list[Shard]) -> list[list[Shard]]:
    """Groups of consecutive shards, which one pass over the images produces."""
    groups = itertools.groupby(enumerate(shards), key=lambda pair: pair[1].number - pair[0])
    return [[shard for _, shard in group] for _, group in groups]


def _make_batches(request: Request, shards: list[Shard]) -> tf.data.Dataset:
    """The batches of consecutive shards: in reading order, unless batches are mixed."""
    first, last = shards[0], shards[-1]
    views, batching = request.view_settings, request.batching
    return training(
        request.source,
        batch_size=batching.batch_size,
        drop_remainder=batching.drop_remainder,
        shuffle=batching.shuffle,
        cache=batching.cache,
        image_size=views.image_size,
        augmentation=views.augmentation,
        seed=views.seed,
        views=request.views,
        start_epoch=first.view,
        start_step=first.begin,
        epochs=last.view - first.view + 1,
        with_index=True,
    )


def _live_runner(teacher: LiveTeacher) -> Callable[[Shard, int, Batch], Mapping[str, Any]]:
    """Returns a function that runs the networks of a teacher on the devices."""
    run = tf.function(map_over_replicas(lambda images: dict(teacher(images))), reduce_retracing=True)
    return lambda shard, step, batch: run(batch.inputs)


def _run_teacher(
    shard: Shard,
    batches: Iterator[Any],
    run: Callable[[Shard, int, Batch], Mapping[str, Any]],
    specs: Specs,
    logits: str,
) -> tuple[np.ndarray, dict[str, list[float]]]:
    """The records of a shard, and the mean and largest KL divergence between the logits and their stored form."""
    records, errors = [], []
    for step in range(shard.begin, shard.end):
        batch: Batch = as_batch(next(batches))
        outputs = run(shard, step, batch)
        records.append(encode(outputs, np.asarray(batch.index), specs, logits))
        if "logits" in specs and logits != "float32":
            (stored,) = decode(records[-1], {"logits": specs["logits"]})
            error = divergence(np.asarray(outputs["logits"], "float32"), stored)
            errors.append(error.reshape(len(TEMPERATURES), -1))
    rows = np.concatenate(records)
    if len(rows) != shard.rows:
        received = f"{len(rows)}, because the source produced another number of images"
        advice = "record into a new directory"
        raise ValueError(explain_mismatch(f"{shard.rows} examples in {shard.file}", received, advice))
    if not errors:
        return rows, {}
    by_temperature = zip(TEMPERATURES, np.concatenate(errors, axis=1), strict=True)
    return rows, {f"T={t}": [float(error.mean()), float(error.max())] for t, error in by_temperature}


def _write_shard(
    directory: Path, shard: Shard, plan: dict[str, Any], records: np.ndarray, error: dict[str, list[float]]
) -> None:
    def write(name: str) -> None:
        with tf.io.TFRecordWriter(name) as file:
            for row in records:
                file.write(row.tobytes())

    path = directory / shard.file
    save_file(path, write)
    note = {"rows": shard.rows, "sha256": file_digest(path), "error": error, "plan": plan_digest(plan)}
    save_json(path.with_suffix(".json"), note)


def _finish(directory: Path, plan: dict[str, Any], shards: list[Shard]) -> Recording | None:
    """Writes the manifest and opens the recording if the shards of all workers exist, else returns `None`."""
    listed = []
    for shard in shards:
        try:
            note = read_json((directory / shard.file).with_suffix(".json"), NOTE_KEYS)
        except (FileNotFoundError, ValueError):  # another worker writes this shard
            return None
        listed.append({**shard._asdict(), **note})
    manifest = {**plan, "shards": listed, "constants": file_digest(directory / constants.FILE)}
    path = directory / "manifest.json"
    try:
        is_current = read_json(path) == manifest
    except (FileNotFoundError, ValueError):
        is_current = False
    if not is_current:
        save_json(path, manifest)
    return Recording(directory)
