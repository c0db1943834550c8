"""One self-contained HTML page: may the small network replace the large one, and what speaks for it?

    from kd_keras import report
    html = report.render_page(subjects, demands, title="runs/student", classes=source.class_names)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from kd_keras.errors import explain_mismatch, suggest
from kd_keras.report.figures import GLYPHS, MARKS, short
from kd_keras.report.sections import (
    Attention,
    Disagreement,
    Network,
    by_class,
    calibration,
    confusion,
    different,
    figures,
    generalization,
    headlines,
    looked_at,
    robustness,
    rows,
    similarity,
    training,
    verdict,
)

__all__ = ("Attention", "Disagreement", "Subject", "render_page")

TEMPLATES = Path(__file__).parent / "templates"
ROLES = ("teacher", "distilled", "alone", "other")
TITLES = {
    "training": "Training curves",
    "confusion": "Confusion",
    "calibration": "Reliability",
    "robustness": "Robustness",
    "attention": "Where they look",
    "similarity": "Likeness inside (CKA)",
    "disagreements": "Worst disagreements",
    "classes": "Class by class",
    "generalisation": "Beyond the test images",
}


class Subject(NamedTuple):
    """One network on the page.

    Attributes:
        name: of its run; unlike that of every other.
        role: "teacher", "alone" (a student that had no teacher), "distilled" or "other".
        findings: what the evaluation found of it, by name; numbers or arrays.
        history: the columns of the run's metrics.csv, a number an epoch, NaN where it has none; may be empty.
        commands: lines that repeat the run; may be empty.
    """

    name: str
    role: str
    findings: Mapping[str, Any]
    history: Mapping[str, Sequence[float]] = {}
    commands: Sequence[str] = ()


def render_page(
    subjects: Sequence[Subject],
    check_requirements: Sequence[Any] = (),
    *,
    title: str,
    data: str = "",
    classes: Sequence[str] = (),
    attention: Sequence[Attention] = (),
    disagreements: Sequence[Disagreement] = (),
    command: str = "",
) -> str:
    r"""The report as HTML, whole in one text: no script, and nothing is fetched.

    Args:
        subjects: the networks: the teacher, where there is one, first, and the one to be judged last.
        demands: the verdict on the last: each with `name`, `limit`, `found` and `holds`, as
            `kd_keras.evaluation.verdict.Requirement` has them.
        title: the page's heading.
        data: a sentence about the images that were tested.
        classes: their names; numbers where there are none.
        attention: images, and where each network looks.
        disagreements: images on which the last network and the teacher differ, the worst first.
        command: what makes this page again.

    Raises:
        ValueError: without subjects, for an unknown role, for two subjects of one name, or a teacher that is not first.
        ImportError: without Jinja2, matplotlib or Pillow.

    >>> large = Subject("runs/teacher", "teacher", {"accuracy": 0.95, "parameters": 270000})
    >>> small = Subject("runs/student", "distilled", {"accuracy": 0.94, "parameters": 20000})
    >>> html = render_page([large, small], title="Digits")
    >>> "0.0741\xa0×" in html, "http" in html
    (True, False)
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    _check(subjects)
    named = networks(subjects)
    shown = list(named.values())
    teacher = shown[0] if subjects[0].role == "teacher" else None
    classes = list(classes) or [str(place) for place in range(_count_classes(subjects))]
    made = {
        "training": training(shown, classes),
        "confusion": confusion(shown, classes),
        "calibration": calibration(shown, classes),
        "robustness": robustness(shown, classes),
        "attention": looked_at(named, classes, attention),
        "similarity": similarity(shown, classes),
        "disagreements": different(named, classes, disagreements),
        "classes": by_class(shown, classes),
        "generalisation": generalization(shown, classes),
    }
    whitespace = {"trim_blocks": True, "lstrip_blocks": True}
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **whitespace)
    return environment.get_template("page.html.jinja").render(
        title=title,
        data=data,
        command=command,
        subjects=list(zip(subjects, shown)),
        judged=subjects[-1],
        glyphs=GLYPHS,
        check_requirements=[verdict(each, subjects[-1].findings) for each in check_requirements],
        headlines=headlines(shown) if teacher and len(shown) > 1 else [],
        rows=rows(shown, teacher),
        figures=figures(shown),
        sections=[(key, title, made[key]) for key, title in TITLES.items() if made[key]],
        absent=[title[0].lower() + title[1:] for key, title in TITLES.items() if not made[key]],
    )


def _check(subjects: Sequence[Subject]) -> None:
    names = [each.name for each in subjects]
    if not subjects or len(set(names)) < len(names):
        raise ValueError(explain_mismatch("at least one subject, each of its own name", str(names)))
    for each in subjects:
        if each.role not in ROLES:
            raise ValueError(explain_mismatch("a role", repr(each.role), suggest(each.role, ROLES)))
    if "teacher" in [each.role for each in subjects[1:]]:
        raise ValueError(explain_mismatch("one teacher, and it first", str([each.role for each in subjects])))


def networks(subjects: Sequence[Subject]) -> dict[str, Network]:
    """What the page shows, by a subject's name; the mark is that of its role, or where that is taken (the last comes
    first) the next one."""
    looks: dict[str, int] = {}
    for each in reversed(subjects):
        wanted = {"teacher": 0, "distilled": 1, "alone": 2}.get(each.role, 3)
        order = [wanted, *range(3, len(MARKS)), 1, 2]
        looks[each.name] = next((look for look in order if look not in looks.values()), wanted)
    called = {"teacher": "the teacher", "alone": "the student alone", "distilled": "the distilled student"}
    return {
        each.name: Network(label, called.get(label, label), looks[each.name], each.findings, each.history)
        for each, label in zip(subjects, _labels(subjects))
    }


def _labels(subjects: Sequence[Subject]) -> list[str]:
    """A subject's role where no other has it, else its name without what all such names begin with."""
    roles = [each.role for each in subjects]
    own = [each.name for each in subjects if each.role == "other" or roles.count(each.role) > 1]
    alike = re.match(r".*[/_-]|", os.path.commonprefix(own) if len(own) > 1 else f"{PurePath(*own).parent}/")[0]
    labels: list[str] = []
    for place, each in enumerate(subjects, 1):
        label = short(each.name.removeprefix(alike).removesuffix(".keras"), 18) if each.name in own else each.role
        labels.append(f"{label} {place}" if label in labels else label)
    return labels


def _count_classes(subjects: Sequence[Subject]) -> int:
    arrays = [each.findings.get(name) for each in subjects for name in ("confusion", "agreement_by_class")]
    return max((len(array) for array in arrays if array is not None), default=0)
