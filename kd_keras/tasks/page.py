"""Writes the page about the networks of a task."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from kd_keras.evaluation import Requirement
from kd_keras.files import write_text
from kd_keras.report.page import Subject, render_page
from kd_keras.report.sections import Metric, Section


def write_page(
    path: str | os.PathLike,
    subjects: Sequence[Subject],
    requirements: Sequence[Requirement] = (),
    *,
    metric: Metric,
    sections: Mapping[str, tuple[str, Section | None]],
    data: str = "",
    command: str = "",
) -> None:
    """Writes one HTML page that says whether a network may replace its teacher, and why.

    Args:
        path: the path of the HTML file.
        subjects: the networks with their findings: the teacher first, the judged one last.
        requirements: the requirements on the judged network, as `check_requirements` returns them.
        metric: the metric that the page is about.
        sections: by a name of letters, the heading and the section; `None` if its findings are missing.
        data: a sentence about the test images.
        command: the command that repeats the page.

    Raises:
        ValueError: as `render_page`.
        ImportError: if Jinja2, matplotlib or Pillow is not installed.
    """
    teacher, judged = subjects[0].name, subjects[-1].name
    title = f"May {judged} replace {teacher}?" if judged != teacher else judged
    html = render_page(
        subjects, requirements, title=title, data=data, command=command, metric=metric, sections=sections
    )
    write_text(path, html)
