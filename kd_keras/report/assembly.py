"""Writes the page on the findings of an evaluator, and chooses the images that it shows."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import softmax

from kd_keras.contracts import as_batch
from kd_keras.evaluation.evaluator import Evaluator
from kd_keras.evaluation.verdict import Requirement
from kd_keras.files import write_text
from kd_keras.report.page import Attention, Disagreement, Subject, render_page

PACKAGES = ("jinja2", "matplotlib", "PIL")
ATTENTION_IMAGES = 8
DISAGREEMENTS = 10


def check_report(path: str | os.PathLike) -> None:
    """Checks before an evaluation that its page can be written afterwards.

    Raises:
        ValueError: if the directory of the page or a package that draws it is missing, or the path is a directory.
    """
    if Path(path).is_dir():
        raise ValueError(f"The report must be a file, but {os.fspath(path)} is a directory. Write report=NAME.html.")
    directory = Path(path).absolute().parent
    if not directory.is_dir():
        raise ValueError(f"The report must be written to an existing directory, but {directory} does not exist.")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"The report needs Jinja2, matplotlib and Pillow, but these packages are missing: {', '.join(missing)}."
            " Install them with pip install 'kd_keras[report]'."
        )


def write_report(
    path: str | os.PathLike,
    evaluator: Evaluator,
    subjects: Sequence[Subject],
    requirements: Sequence[Requirement] = (),
    *,
    command: str = "",
) -> None:
    """Writes the page on the networks that an evaluator has evaluated.

    Args:
        path: the path of the HTML file.
        evaluator: an evaluator that has evaluated all subjects.
        subjects: the networks, with the names of the evaluator's candidates: the teacher first, the judged one last.
        requirements: the requirements on the judged network.
        command: the command that repeats the page.
    """
    judged = subjects[-1].name
    shown = len(evaluator.sample.images)
    data = f"{evaluator.test.size:,} test images of {evaluator.test.name}."
    if shown not in (0, evaluator.test.size):
        data += f" Corruptions, attention and CKA use {shown:,} of them."
    html = render_page(
        subjects,
        requirements,
        title=f"May {judged} replace {evaluator.teacher}?" if judged != evaluator.teacher else judged,
        data=data,
        classes=evaluator.test.class_names or (),
        attention=select_attention(evaluator, judged),
        disagreements=select_disagreements(evaluator, judged),
        command=command,
    )
    write_text(path, html)


def select_attention(evaluator: Evaluator, judged: str) -> list[Attention]:
    """Evenly spread images of the sample with the maps of all networks; none if the judged network has no maps."""
    images, labels = evaluator.sample
    if judged not in evaluator.attention_maps:
        return []
    indices = np.unique(np.linspace(0, len(images) - 1, ATTENTION_IMAGES).astype(int))
    return [
        Attention(
            images[index],
            None if labels is None else int(labels[index]),
            {name: maps[index] for name, maps in evaluator.attention_maps.items()},
        )
        for index in indices
    ]


def select_disagreements(evaluator: Evaluator, judged: str) -> list[Disagreement]:
    """The test images for which the judged network and the teacher predict different classes most confidently."""
    teacher, student = (softmax(evaluator.predictions[name].logits, axis=-1) for name in (evaluator.teacher, judged))
    labels = evaluator.predictions[judged].labels
    different = np.flatnonzero(teacher.argmax(-1) != student.argmax(-1))
    confidence = teacher.max(-1) * student.max(-1)
    indices = different[np.argsort(-confidence[different], kind="stable")[:DISAGREEMENTS]]
    images = _test_images(evaluator, indices)
    return [
        Disagreement(
            images[index],
            None if labels is None else int(labels[index]),
            (int(teacher[index].argmax()), float(teacher[index].max())),
            (int(student[index].argmax()), float(student[index].max())),
        )
        for index in indices
    ]


def _test_images(evaluator: Evaluator, indices: np.ndarray) -> dict[int, np.ndarray]:
    """The test images at these indices, uint8."""
    images: dict[int, np.ndarray] = {}
    start = 0
    for element in evaluator.images:
        batch = as_batch(element).inputs.numpy()
        inside = [index for index in indices if start <= index < start + len(batch)]
        images |= {index: np.round(batch[index - start]).astype("uint8") for index in inside}
        start += len(batch)
    return images
