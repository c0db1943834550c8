"""What differs between kinds of problems: a task for each, with its labels, loss, metrics and heads."""

from __future__ import annotations

import os
from typing import Any

from kd_keras.data import Source, find_label_kind
from kd_keras.errors import check_choice
from kd_keras.tasks.base import Task
from kd_keras.tasks.classification import Classification
from kd_keras.tasks.detection import Detection
from kd_keras.tasks.faces import Faces
from kd_keras.tasks.protocols import FORMATS, TaskExport
from kd_keras.tasks.segmentation import Segmentation

__all__ = ("CLASSIFICATION", "FORMATS", "NAMES", "TASKS", "Task", "TaskExport", "find_task")
CLASSIFICATION = Classification()
# Of several tasks with the same kind of labels, the first one is the default.
TASKS: tuple[Task, ...] = (CLASSIFICATION, Detection(), Segmentation(), Faces())
NAMES = tuple(task.name for task in TASKS)


def find_task(
    name: str | None, data: Any, data_dir: str | os.PathLike | None = None, download_timeout: float = 60.0
) -> Task:
    """The task of a name, or the one whose labels some data have; classification if they have none.

    Args:
        name: one of `NAMES`, or `None` to infer the task.
        data: the name of a dataset, a folder, a `Source` or a `tf.data.Dataset`.
        data_dir: as for `data.load`.
        download_timeout: as for `data.load`.

    Raises:
        ValueError: if the name is unknown, or the dataset does not exist.

    >>> find_task(None, "digits").name, find_task("detection", "digits").name
    ('classification', 'detection')
    """
    if name is not None:
        check_choice("find_task", "task", name, NAMES)
        return next(task for task in TASKS if task.name == name)
    kind = None
    if isinstance(data, (str, os.PathLike)):
        kind = find_label_kind(data, data_dir, download_timeout)
    elif isinstance(data, Source):
        kind = data.label_kind
    return next((task for task in TASKS if task.label_kind == kind), CLASSIFICATION)
