"""Recording: the outputs of a teacher for views of the training images, written to disk once."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from kd_keras import distribute
from kd_keras.methods import Method
from kd_keras.recording import writer
from kd_keras.recording.format import TEMPERATURES
from kd_keras.recording.reader import Recording
from kd_keras.runs import devices, teachers
from kd_keras.runs.images import load_images
from kd_keras.runs.methods import make_methods
from kd_keras.runs.recipe import Data, Recipe, recipe
from kd_keras.runs.teachers import TEACHER_OPTIONS, TeacherOptions, TeacherSource
from kd_keras.teacher import Teacher

logger = logging.getLogger("kd_keras")


def record(
    *,
    teacher: TeacherSource | None = None,
    data: Data = "digits",
    output: str | os.PathLike,
    methods: Sequence[str | Method] = ("kd",),
    logits: str = "float32",
    shard: tuple[int, int] | None = None,
    verify: bool = False,
    **options: Any,
) -> Recording | None:
    """Records the outputs of a teacher, to train students from with `distill(recording=...)`.

    Data and augmentation must be those of the training; the batch size only if mixup or CutMix mix a batch. The same
    call resumes an interrupted recording.

    Args:
        teacher: as for `distill`; may be missing if `verify`.
        data: as for `distill`.
        output: the directory of the recording.
        methods: methods whose teacher taps are recorded.
        logits: how logits are stored: "float32", "float16" or "top-<k>".
        shard: (i, n): write the i-th of n parts, i from 0; by default all, or what a cluster in the environment says.
        verify: only compare the checksums of a complete recording and, if a teacher is given, its weights.
        **options: those of `TeacherOptions`, and of `Recipe` those of data, views and devices.

    Returns:
        The recording, or `None` if the parts of other workers are still missing.

    Raises:
        TypeError: for an unknown option or a value of the wrong type.
        ValueError: if the directory holds another recording, or the request is wrong.
        OSError: if the disk is full; finished parts stay, and the same call resumes.
    """
    for_teacher = TeacherOptions(**{name: options.pop(name) for name in TEACHER_OPTIONS if name in options})
    plan = recipe(data=data, **options)
    if verify:
        return _verified(output, teacher, for_teacher, plan)
    if teacher is None:
        raise ValueError("Recording needs --teacher=, but none is given.")
    taps = list(dict.fromkeys(tap for method in make_methods(methods) for tap in method.taps.teacher))
    with devices.local_strategy(plan).scope():
        images = load_images(plan)
        recording = writer.record(
            output,
            teachers.load_teacher(teacher, images, for_teacher),
            images.train,
            taps=taps,
            views=plan.views or 1,
            logits=logits,
            shard=distribute.worker_rank() if shard is None else shard,
            **images.view_options,
        )
    if recording is None:
        logger.info("%s: this part is done; others are missing.", output)
    else:
        _report(recording)
    return recording


def _verified(
    output: str | os.PathLike, teacher: TeacherSource | None, for_teacher: TeacherOptions, plan: Recipe
) -> Recording:
    """A complete recording, read through."""
    recording = Recording(os.fspath(output))
    recording.verify()
    if teacher is not None:
        Teacher.recorded(output, live=teachers.load_teacher(teacher, load_images(plan), for_teacher))
    logger.info("%s: every shard is whole.", output)
    _report(recording)
    return recording


def _report(recording: Recording) -> None:
    """Says what is recorded, and how far the stored logits are from those of the teacher."""
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
