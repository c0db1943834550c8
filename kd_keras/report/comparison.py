"""A comparison of runs as Markdown tables, as CSV and as a figure."""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_keras.evaluation.seeds import COLUMNS, SeedGroup, name_recipe
from kd_keras.files import write_atomically

HEADS = (
    "recipe", "seeds", "{metric}, %", "spread", "best epoch, %", "spread", "gain over the baseline", "95 % interval",
    "gap closed", "seconds",
)  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One table for each pair of teacher and student; the baselines of a student are in every table of that student."""
    tables = []
    for title, of_pair in _by_pair(rows).items():
        lines = [
            f"{title}:",
            "",
            f"| {' | '.join(_heads(of_pair))} |",
            "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|",
        ]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in of_pair]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def latex(rows: Sequence[dict[str, Any]]) -> str:
    """The same tables in LaTeX, for the package booktabs."""
    tables = []
    for title, of_pair in _by_pair(rows).items():
        body = [" & ".join(map(_escape, cells)) + r" \\" for cells in (_heads(of_pair), *map(_cells, of_pair))]
        lines = [f"% {title}", r"\begin{tabular}{lrrrrrrlrr}", r"\toprule", body[0], r"\midrule", *body[1:]]
        tables.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(tables)


def _heads(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [head.format(metric=rows[0]["metric"]) for head in HEADS]


def _escape(text: str) -> str:
    """A text as LaTeX prints it.

    >>> _escape("kd_2, 50%")
    'kd\\\\_2, 50\\\\%'
    """
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def _by_pair(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table by its title."""
    tables: dict[str, list[dict[str, Any]]] = {}
    pairs = dict.fromkeys((row["teacher"], row["student"]) for row in rows)
    for teacher, student in pairs:
        if teacher == "-" and any(pair[0] != "-" and pair[1] == student for pair in pairs):
            continue  # the baseline is in the tables of its teachers
        title = f"{student}, taught by {teacher}" if teacher != "-" else student
        tables[title] = [row for row in rows if row["student"] == student and row["teacher"] in ("-", teacher)]
    return tables


def _cells(row: dict[str, Any]) -> list[str]:
    def text(template: str, *names: str) -> str:
        values = [row[name] for name in names]
        return "-" if any(map(math.isnan, values)) else template.format(*values)

    cells = [row["recipe"], str(row["seeds"]), text("{:.2f}", "last"), text("{:.2f}", "spread")]
    cells += [text("{:.2f}", "best"), text("{:.2f}", "best_spread"), text("{:+.2f}", "gain")]
    cells += [text("{:+.2f} to {:+.2f}", "low", "high"), text("{:.0%}", "gap_closed"), text("{:.0f}", "seconds")]
    return cells


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The same rows as CSV without rounding; the first line has the names of the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plot(groups: Sequence[SeedGroup], path: str | os.PathLike) -> None:
    """Draws every pair: a point for each seed, a bar at the mean, lines for the baseline and the teacher.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys((group.teacher, group.student) for group in groups if not group.is_baseline))
    pairs = pairs or list(dict.fromkeys(("", group.student) for group in groups))
    panels = [
        [group for group in groups if group.student == student and group.teacher in ("", teacher)]
        for teacher, student in pairs
    ]
    heights = [len(panel) + 1.6 for panel in panels]
    figure = Figure(figsize=(8, 0.36 * sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for (teacher, student), panel, axis in zip(pairs, panels, axes, strict=True):
        _draw_panel(axis, panel, [_shorten(name_recipe(group, groups)) for group in panel])
        axis.set_title(f"{student}, taught by {Path(teacher).name}" if teacher else student, loc="left", fontsize=10)
    axes[-1].set_xlabel(f"test {groups[0].metric} after the last epoch, %")
    legend = {line.get_label(): line for axis in axes for line in axis.get_lines() if line.get_label()[0] != "_"}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    write_atomically(path, lambda name: figure.savefig(name, dpi=150))


def _draw_panel(axis: Any, panel: Sequence[SeedGroup], names: Sequence[str]) -> None:
    """Draws one pair, a row for each group."""
    for row, group in enumerate(panel):
        values = group.last_values
        style = {"color": "#0072B2", "alpha": 0.6, "mec": "white", "label": "one seed"}
        axis.plot(values, [row] * len(values), "o", **style)
        axis.plot(statistics.mean(values), row, "|k", markersize=16, markeredgewidth=2, label="mean")
        if group.is_baseline:
            axis.axvline(statistics.mean(values), color="0.5", linestyle=":", label="baseline")
    teacher = [value for group in panel for value in group.teacher_values]
    if teacher:
        axis.axvline(statistics.mean(teacher), color="#D55E00", linestyle="--", label="teacher")
    axis.set_yticks(range(len(panel)), names)
    axis.invert_yaxis()
    axis.margins(y=0.15)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _shorten(text: str, length: int = 44) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
