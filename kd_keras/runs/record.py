"""Writes the outputs of a teacher for views of the training images to disk: `kd_keras.record`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from inspect import signature
from typing import Any

from kd_keras import distribute
from kd_keras.methods import Method
from kd_keras.recording import writer
from kd_keras.recording.format import TEMPERATURES
from kd_keras.recording.reader import Recording
from kd_keras.runs import devices, teachers
from kd_keras.runs.images import Images, load_images
from kd_keras.runs.methods import make_methods
from kd_keras.runs.recipe import Data, Recipe, make_recipe
from kd_keras.runs.teachers import TEACHER_OPTIONS, TeacherOptions, TeacherSource
from kd_keras.runs.unlabeled import open_unlabeled
from kd_keras.tasks.pretraining import Pretraining
from kd_keras.teacher import Teacher
from kd_keras.training.construction import check_combination, check_storage

logger = logging.getLogger("kd_keras")


def record(
    *,
    teacher: TeacherSource | None = None,
    data: Data = "digits",
    output: str | os.PathLike,
    methods: Sequence[str | Method] = ("kd",),
    logits: str = "float32",
    shard: tuple[int, int] | None = None,
    unlabeled: bool = False,
    verify: bool = False,
    **options: Any,
) -> Recording | None:
    """Records the outputs of a teacher; `distill(recording=...)` trains students from them.

    The data, the seed and the augmentation must be those of the training that uses the recording, and with mixup or
    CutMix the batch size too. The same call resumes an interrupted recording.

    Args:
        teacher: as for `distill`, or a teacher that is no TensorFlow graph: a Python function, what `Teacher.litert`,
            `Teacher.onnx`, `Teacher.served` or `Teacher.arrays` returns, or a text that names such a teacher, as
            `own_teachers.as_function` takes it. May be `None` if `verify` is true.
        data: as for `distill`.
        output: the directory of the recording.
        methods: methods whose teacher taps are recorded.
        logits: how logits are stored: "float32", "float16" or "top-<k>".
        shard: (i, n): write part i of n, with i from 0. By default the rank and the number of workers of the cluster
            that the environment describes, or everything if there is none.
        unlabeled: whether the images are read as `pretrain` reads them: all images of a folder, those of a text file
            of paths, or a dataset, without labels.
        verify: only compare the checksums of a complete recording and, if a teacher is passed, its weights.
        **options: those of `TeacherOptions`, and those of `Recipe` for data, views and devices.

    Returns:
        The recording, or `None` if the parts of other workers are still missing.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        FileNotFoundError: if a dataset is neither prepared nor downloadable, or a folder has no images.
        ValueError: if the directory contains another recording, or the request is invalid, for example if only the
            largest of units with a sigmoid each would be stored.
        OSError: if the disk is full; complete shards are kept, and the same call resumes.

    >>> import tempfile
    >>> from kd_keras import models
    >>> teacher = models.build("mlp", (8, 8, 1), 10)
    >>> recording = record(teacher=teacher, data="digits", output=f"{tempfile.mkdtemp()}/recording", views=1)
    >>> recording.examples, recording.views
    (1000, 1)
    """
    for_teacher = TeacherOptions(**{name: options.pop(name) for name in TEACHER_OPTIONS if name in options})
    recipe = make_recipe(False, signature(record).parameters, data=data, **options)
    if verify:
        return _verify(output, teacher, for_teacher, recipe, unlabeled)
    if teacher is None:
        raise ValueError("Expected a teacher to record, but received none. Pass teacher=.")
    readers = make_methods(methods)
    check_storage(readers, {}, logits)
    taps = list(dict.fromkeys(tap for method in readers for tap in method.taps.teacher))
    with devices.local_strategy(recipe).scope():
        images = teachers.name_classes(_load(recipe, unlabeled), teacher)
        loaded = teachers.load_any_teacher(teacher, images, for_teacher, taps)
        images = teachers.name_classes(images, loaded)
        check_combination(readers, {}, loaded.tapped(taps))
        recording = writer.record(
            output,
            loaded,
            images.train,
            taps=taps,
            views=recipe.views or 1,
            logits=logits,
            shard=distribute.worker_rank() if shard is None else shard,
            **images.view_options,
        )
    if recording is None:
        logger.info("%s: the part of this worker is complete, but others are missing.", output)
    else:
        _report(recording)
    return recording


def _load(recipe: Recipe, unlabeled: bool) -> Images:
    return Images(recipe, open_unlabeled(recipe), None, Pretraining()) if unlabeled else load_images(recipe)


def _verify(
    output: str | os.PathLike,
    teacher: TeacherSource | None,
    for_teacher: TeacherOptions,
    recipe: Recipe,
    unlabeled: bool,
) -> Recording:
    """Reads a complete recording and compares its checksums and, if a teacher is passed, its weights."""
    recording = Recording(os.fspath(output))
    recording.verify()
    if teacher is not None:
        Teacher.recorded(output, live=teachers.load_any_teacher(teacher, _load(recipe, unlabeled), for_teacher))
    logger.info("%s: the checksums of all shards are correct.", output)
    _report(recording)
    return recording


def _report(recording: Recording) -> None:
    """Logs what is recorded, and how far the stored logits are from those of the teacher."""
    logger.info(
        "%s: %d views of %s examples, %s, logits as %s.",
        recording.directory, recording.views, f"{recording.examples:,}", ", ".join(recording.specs),
        recording.plan["logits"],
    )  # fmt: skip
    errors: list[dict[str, Any]] = [shard["error"] for shard in recording.plan["shards"] if shard["error"]]
    for name in (f"T={temperature}" for temperature in TEMPERATURES if errors):
        mean = sum(error[name][0] for error in errors) / len(errors)
        highest = max(error[name][1] for error in errors)
        logger.info("KL(teacher || stored) at %s: mean %.2g, highest %.2g nats.", name, mean, highest)
