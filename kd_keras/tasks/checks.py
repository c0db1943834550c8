"""Checks that several tasks share: of labels, of options that a task does not have, and of the size of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras

from kd_keras import data
from kd_keras.data import Source
from kd_keras.errors import explain_mismatch
from kd_keras.tasks.base import Task


def load_unlabeled(
    task: Task,
    name: str | os.PathLike,
    split: str,
    data_dir: str | os.PathLike | None,
    image_bits: int | None,
    **options: Any,
) -> Source | None:
    """The images of a folder without labels of a task's kind, or `None` if the images that are named have such labels.

    Args:
        task: the task.
        name, split, data_dir, image_bits, options: as `data.load` takes them.

    Raises:
        ValueError: if a folder has labels of another kind, or if labeled images should have more than 8 bits.
    """
    timeout = options["download_timeout"]
    if os.path.isdir(name) and data.find_label_kind(name, data_dir, timeout) != task.label_kind:
        unlabeled = data.load(name, split, data_dir, image_bits=image_bits, **options)
        task.check_source(unlabeled)
        return unlabeled
    if image_bits is not None:
        received = f"received image_bits={image_bits}"
        raise ValueError(f"Images with {task.label_kind} must have 8 bits, but {received}. Leave it out.")
    return None


def refuse_ignored(task: Task, ignored: Sequence[int] | None) -> None:
    """Raises a ValueError if there are ignored values of masks, for a task without masks."""
    if ignored:
        received = f"ignored={','.join(map(str, ignored))}"
        raise ValueError(
            explain_mismatch(f"no ignored= for the task {task.name!r}, which has no masks", received, "leave it out")
        )


def refuse_soft_labels(has_soft_labels: bool, label_smoothing: float, expected: str) -> None:
    """Raises a ValueError if labels are distributions over classes, for a task whose loss takes `expected` labels."""
    if has_soft_labels:
        received = f"label_smoothing={label_smoothing}" if label_smoothing else "mixup or cutmix"
        raise ValueError(explain_mismatch(expected, received, "leave these options out"))


def check_image_shape(network: keras.Model, name: str, image_shape: tuple[int, int, int]) -> None:
    """Raises a ValueError if a network was built for images `(H, W, C)` of another shape."""
    own_shape = tuple(network.input_shape[1:])
    if own_shape != tuple(image_shape):
        size = ",".join(map(str, own_shape[:2]))
        advice = f"pass image_size=({size}), or --image_size={size} in the shell"
        expected = f"images {own_shape}, for which {name} was built"
        raise ValueError(explain_mismatch(expected, f"images {tuple(image_shape)}", advice))
