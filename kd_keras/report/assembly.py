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
    places = np.unique(np.linspace(0, len(images) - 1, ATTENTION_IMAGES).astype(int))
    return [
        Attention(
            images[place],
            None if labels is None else int(labels[place]),
            {name: maps[place] for name, maps in evaluator.attention_maps.items()},
        )
        for place in places
    ]


def select_disagreements(evaluator: Evaluator, judged: str) -> list[Disagreement]:
    """The test images for which the judged network and the teacher predict different classes most confidently."""
    teacher, student = (softmax(evaluator.predictions[name].logits, axis=-1) for name in (evaluator.teacher, judged))
    labels = evaluator.predictions[judged].labels
    different = np.flatnonzero(teacher.argmax(-1) != student.argmax(-1))
    confidence = teacher.max(-1) * student.max(-1)
    places = different[np.argsort(-confidence[different], kind="stable")[:DISAGREEMENTS]]
    images = _test_images(evaluator, places)
    return [
        Disagreement(
            images[place],
            None if labels is None else int(labels[place]),
            (int(teacher[place].argmax()), float(teacher[place].max())),
            (int(student[place].argmax()), float(student[place].max())),
        )
        for place in places
    ]


def _test_images(evaluator: Evaluator, places: np.ndarray) -> dict[int, np.ndarray]:
    """The test images at these places, uint8."""
    images: dict[int, np.ndarray] = {}
    start = 0
    for element in evaluator.images:
        batch = as_batch(element).inputs.numpy()
        inside = [place for place in places if start <= place < start + len(batch)]
        images |= {place: np.round(batch[place - start]).astype("uint8") for place in inside}
        start += len(batch)
    return images
