"""From an inquiry to the page of `kd_keras.report.page`: what the runs recorded, and the images that it shows."""

from __future__ import annotations

import csv
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import softmax

from experiments.inquiry import Inquiry
from kd_keras.contracts import as_batch
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import Requirement
from kd_keras.files import write_atomically
from kd_keras.report.page import Attention, Disagreement, Subject, render_page

TAUGHT = ("--teacher=", "--recording=", "--method=")  # flags of a run that had a teacher
LOOKED = 8  # images with attention maps
DIFFERED = 10  # images on which two networks differ


def check_report(path: str) -> None:
    """Says before the long work what would keep the page from being written after it.

    Raises:
        ValueError: without the directory, or the packages that draw.
    """
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(explain_mismatch("--report= a file in a directory that there is", path))
    absent = [name for name in ("jinja2", "matplotlib", "PIL") if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(explain_mismatch("Jinja2, matplotlib and Pillow for --report", f"no {', '.join(absent)}"))


def write_report(path: str, inquiry: Inquiry, judged: str, check_requirements: Sequence[Requirement]) -> None:
    """Writes the page on what was found, with the verdict on the run `judged`."""
    runs = [run for run in inquiry.findings if run != judged]
    runs = [*runs, judged] if judged != inquiry.teacher else list(inquiry.findings)
    about = f"{inquiry.test.size:,} test images of {inquiry.test.name}."
    if len(inquiry.sample[0]) not in (0, inquiry.test.size):
        about += f" Corruptions, attention and CKA: {len(inquiry.sample[0]):,} of them."
    html = render_page(
        [subject(run, inquiry) for run in runs],
        check_requirements,
        title=f"May {judged} replace {inquiry.teacher}?" if judged != inquiry.teacher else judged,
        data=about,
        classes=inquiry.test.class_names or (),
        attention=attention(inquiry, judged),
        disagreements=disagreements(inquiry, judged),
        command=f"python -m experiments.evaluate {shlex.join(sys.argv[1:])}",
    )
    write_atomically(path, lambda name: Path(name).write_text(html, encoding="utf-8"))


def subject(run: str, inquiry: Inquiry) -> Subject:
    """A run with what was found of it, what it recorded, and the flags that repeat it; a bare file has neither."""
    place = Path(run) if Path(run).is_dir() else Path(run).parent
    recorded = place / "flags.txt"
    lines = recorded.read_text().splitlines() if recorded.exists() else []
    taught = any(line.startswith(TAUGHT) for line in lines)
    role = "teacher" if run == inquiry.teacher else "distilled" if taught else "alone" if lines else "other"
    program = "distill" if taught else "train"
    commands = [f"python -m experiments.{program} --run=NEW --flagfile={recorded}", "", *lines] if lines else []
    return Subject(run, role, inquiry.findings[run], history(place / "metrics.csv"), commands)


def history(metrics: Path) -> dict[str, list[float]]:
    """The columns of a metrics.csv, NaN where an epoch has no value; empty where there is no file."""
    if not metrics.exists():
        return {}
    with open(metrics, newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: [float("nan" if row[name] == "NA" else row[name]) for row in rows] for name in (rows or [{}])[0]}


def attention(inquiry: Inquiry, judged: str) -> list[Attention]:
    """Images of the sample, evenly spread, and the maps of those networks that have some; none without the judged."""
    images, labels = inquiry.sample
    if judged not in inquiry.maps:
        return []
    places = np.unique(np.linspace(0, len(images) - 1, LOOKED).astype(int))
    maps = [{run: each[place] for run, each in inquiry.maps.items()} for place in places]
    return [
        Attention(images[place], None if labels is None else int(labels[place]), each)
        for place, each in zip(places, maps)
    ]


def disagreements(inquiry: Inquiry, judged: str) -> list[Disagreement]:
    """The test images on which the judged network and the teacher differ and both are surest of their answers."""
    teacher, student = (softmax(inquiry.answers[run].logits, axis=-1) for run in (inquiry.teacher, judged))
    labels = inquiry.answers[judged].labels
    differ = np.flatnonzero(teacher.argmax(-1) != student.argmax(-1))
    sure = teacher.max(-1) * student.max(-1)
    worst = differ[np.argsort(-sure[differ], kind="stable")[:DIFFERED]]
    images, first = {}, 0
    for each in inquiry.images:
        batch = as_batch(each).inputs.numpy()
        here = [place for place in worst if first <= place < first + len(batch)]
        images |= {place: np.round(255 * batch[place - first]).astype("uint8") for place in here}
        first += len(batch)
    return [
        Disagreement(
            images[place],
            None if labels is None else int(labels[place]),
            (int(teacher[place].argmax()), float(teacher[place].max())),
            (int(student[place].argmax()), float(student[place].max())),
        )
        for place in worst
    ]
