"""Renders one self-contained HTML page that says whether a student may replace its teacher, and why."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from kd_keras.errors import suggest
from kd_keras.evaluation.verdict import Requirement
from kd_keras.report.figures import GLYPHS, MARKS
from kd_keras.report.labels import shorten
from kd_keras.report.sections import (
    ACCURACY,
    Attention,
    Disagreement,
    Metric,
    Network,
    Section,
    describe_requirement,
    headlines,
    show_attention,
    show_calibration,
    show_classes,
    show_confusion,
    show_disagreements,
    show_generalization,
    show_quantization,
    show_robustness,
    show_similarity,
    show_training,
    table_rows,
    trade_off_figures,
)

__all__ = ("Attention", "Disagreement", "Subject", "render_page")

TEMPLATES = Path(__file__).parent / "templates"
ROLES = ("teacher", "distilled", "baseline", "other")
TITLES = {
    "training": "Training curves",
    "confusion": "Confusion",
    "calibration": "Reliability",
    "robustness": "Robustness",
    "attention": "Attention maps",
    "similarity": "Similarity of stages (CKA)",
    "int8": "Layers in int8",
    "disagreements": "Disagreements",
    "classes": "Accuracy by class",
    "generalization": "Generalization",
}
SECTIONS = {  # those that need nothing but the networks and the names of the classes
    "training": show_training,
    "confusion": show_confusion,
    "calibration": show_calibration,
    "robustness": show_robustness,
    "similarity": show_similarity,
    "int8": show_quantization,
    "classes": show_classes,
    "generalization": show_generalization,
}


class Subject(NamedTuple):
    """One network on the page.

    Attributes:
        name: the name of its run or file; unique on the page.
        role: "teacher", "distilled", "baseline" (trained without distillation) or "other".
        findings: the findings of the evaluation by name: numbers or arrays.
        history: the columns of the run's metrics.csv, one number per epoch, NaN if an epoch has none; may be empty.
        commands: lines that repeat the run; may be empty.
    """

    name: str
    role: str
    findings: Mapping[str, Any]
    history: Mapping[str, Sequence[float]] = {}
    commands: Sequence[str] = ()


def render_page(
    subjects: Sequence[Subject],
    requirements: Sequence[Requirement] = (),
    *,
    title: str,
    data: str = "",
    classes: Sequence[str] = (),
    attention: Sequence[Attention] = (),
    disagreements: Sequence[Disagreement] = (),
    command: str = "",
    metric: Metric = ACCURACY,
    sections: Mapping[str, tuple[str, Section | None]] | None = None,
) -> str:
    r"""Renders the report as one HTML text, without scripts and without references to other files.

    Args:
        subjects: the networks; the teacher, if there is one, is the first, and the judged network is the last.
        requirements: the requirements on the judged network.
        title: the heading of the page.
        data: a sentence about the test images.
        classes: the names of the classes of these images; numbers by default.
        attention: images with the attention maps of the networks.
        disagreements: images for which the judged network and the teacher predict different classes.
        command: the command that repeats the page.
        metric: the metric that the page is about.
        sections: the sections below the trade-off. The key is an HTML id in letters; the value is the heading and the
            section, or `None` if its data are missing. By default those of classification. `name_networks` returns the
            networks as they are shown.

    Raises:
        ValueError: if there are no subjects, a role is unknown, two subjects have the same name, or the teacher is not
            the first.
        ImportError: if Jinja2, matplotlib or Pillow is not installed.

    >>> large = Subject("runs/teacher", "teacher", {"accuracy": 0.95, "parameters": 270000})
    >>> small = Subject("runs/student", "distilled", {"accuracy": 0.94, "parameters": 20000})
    >>> html = render_page([large, small], title="Digits")
    >>> "0.0741\xa0×" in html, "http" in html
    (True, False)
    """
    _check_subjects(subjects)
    named = name_networks(subjects)
    shown = list(named.values())
    teacher = shown[0] if subjects[0].role == "teacher" else None
    if sections is None:
        classes = list(classes) or [str(index) for index in range(_count_classes(subjects))]
        by_name = {name: show(shown, classes) for name, show in SECTIONS.items()}
        by_name["attention"] = show_attention(named, classes, attention)
        by_name["disagreements"] = show_disagreements(named, classes, disagreements)
        sections = {name: (heading, by_name[name]) for name, heading in TITLES.items()}
    return load_template().render(
        title=title,
        data=data,
        command=command,
        subjects=list(zip(subjects, shown, strict=True)),
        judged=subjects[-1],
        glyphs=GLYPHS,
        requirements=[describe_requirement(requirement, subjects[-1].findings) for requirement in requirements],
        metric=metric,
        headlines=headlines(shown, metric) if teacher and len(shown) > 1 else [],
        rows=table_rows(shown, teacher, metric),
        figures=trade_off_figures(shown, metric),
        sections=[(name, heading, section) for name, (heading, section) in sections.items() if section],
        omitted=[heading[0].lower() + heading[1:] for heading, section in sections.values() if not section],
    )


def load_template(name: str = "page.html.jinja") -> Any:
    """A template of a page by the name of its file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _check_subjects(subjects: Sequence[Subject]) -> None:
    names = [subject.name for subject in subjects]
    if not subjects or len(set(names)) < len(names):
        raise ValueError(f"The report needs at least one subject, all with different names, but received {names}.")
    roles = [subject.role for subject in subjects]
    for role in roles:
        if role not in ROLES:
            raise ValueError(f"{role!r} is not a role of a subject: {suggest(role, ROLES)}")
    if "teacher" in roles[1:]:
        raise ValueError(f"The report needs the teacher as the first subject, but received the roles {roles}.")


def name_networks(subjects: Sequence[Subject]) -> dict[str, Network]:
    """The networks as the page shows them, by the name of the subject.

    A network has the style of its role, or the next free style if a later subject already has it.
    """
    styles: dict[str, int] = {}
    for subject in reversed(subjects):
        preferred = {"teacher": 0, "distilled": 1, "baseline": 2}.get(subject.role, 3)
        order = [preferred, *range(3, len(MARKS)), 1, 2]
        styles[subject.name] = next((style for style in order if style not in styles.values()), preferred)
    phrases = {"teacher": "the teacher", "baseline": "the baseline", "distilled": "the distilled student"}
    return {
        subject.name: Network(label, phrases.get(label, label), styles[subject.name], subject.findings, subject.history)
        for subject, label in zip(subjects, _labels(subjects), strict=True)
    }


def _labels(subjects: Sequence[Subject]) -> list[str]:
    """The role of each subject if it is unique, else the name without the prefix that all such names share."""
    roles = [subject.role for subject in subjects]
    names = [subject.name for subject in subjects if subject.role == "other" or roles.count(subject.role) > 1]
    common = os.path.commonprefix(names) if len(names) > 1 else f"{PurePath(*names).parent}/"
    match = re.match(r".*[/_-]", common)
    prefix = match[0] if match else ""
    labels: list[str] = []
    for index, subject in enumerate(subjects, 1):
        label = subject.role
        if subject.name in names:
            label = shorten(subject.name.removeprefix(prefix).removesuffix(".keras"), 18)
        labels.append(f"{label} {index}" if label in labels else label)
    return labels


def _count_classes(subjects: Sequence[Subject]) -> int:
    arrays = [subject.findings.get(name) for subject in subjects for name in ("confusion", "agreement_by_class")]
    return max((len(array) for array in arrays if array is not None), default=0)
