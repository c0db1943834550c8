"""Finished runs, those that differ in nothing but the seed together: means, spreads, and what distillation gained."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from experiments.sweeps import ALONE

# Flags that say where things stand, and nothing of the training.
PLACES = ("data_dir", "seed", "checkpoint_every", "keep")
COLUMNS = (
    "teacher", "student", "recipe", "seeds", "last", "spread", "best", "best_spread", "beyond", "low", "high", "closed",
    "seconds", "first_run",
)
HEADS = (
    "recipe", "seeds", "accuracy, %", "spread", "best epoch, %", "spread", "beyond the student alone", "95 % interval",
    "of the gap", "seconds",
)


class Group(NamedTuple):
    """The results of runs that differ in their seed alone. `flags` are those that they share, but for PLACES."""

    teacher: str
    student: str
    flags: tuple[str, ...]
    runs: list[Path]
    results: list[dict[str, Any]]

    @property
    def methods(self) -> list[str]:
        return [flag.partition("=")[2] for flag in self.flags if flag.startswith("--method=")]

    def accuracies(self, which: str) -> list[float]:
        """Of every seed, in percent: after the `last` epoch or the `best` one."""
        key = {"last": lambda each: each["last"]["val_accuracy"], "best": lambda each: each["best_val_accuracy"]}[which]
        return [100 * key(each) for each in self.results]


def grouped(runs: Sequence[Path]) -> tuple[list[Group], list[Path]]:
    """Groups of the finished runs in order of their first one, and the runs that have no result yet."""
    found: dict[tuple, Group] = {}
    unfinished = []
    for run in runs:
        if not (run / "result.json").exists():
            unfinished.append(run)
            continue
        result = json.loads((run / "result.json").read_text())
        lines = (run / "flags.txt").read_text().splitlines()
        named = dict(line[2:].partition("=")[::2] for line in lines)
        own = [line for line in lines if line[2:].partition("=")[0] not in (*PLACES, "teacher", "student", "model")]
        teacher = _without_seed(named.get("teacher", ""))
        student = named.get("student") or named.get("model", "")
        key = (teacher, student, *own)
        group = found.setdefault(key, Group(teacher, student, tuple(own), [], []))
        group.runs.append(run)
        group.results.append(result)
    return list(found.values()), unfinished


def _without_seed(teacher: str) -> str:
    """A teacher's run; where each seed has its own in `<run>/seed<n>`, the directory that holds them."""
    path = Path(teacher)
    return str(path.parent if path.name.startswith("seed") and path.name[4:].isdigit() else path) if teacher else ""


def recipe(group: Group, groups: Sequence[Group]) -> str:
    """What a group did, in words: its methods, and where that is not enough the flags that others of it differ in."""
    name = " + ".join(group.methods) if group.teacher or group.methods else ALONE
    alike = [each for each in groups if each is not group and (each.teacher, each.student) == group[:2]]
    alike = [each for each in alike if each.methods == group.methods]
    other = [flag for flag in group.flags if any(flag not in each.flags for each in alike)]
    return " ".join([name, *other])


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row of COLUMNS for each group, accuracies in percent.

    `beyond` is the difference from the student alone with its 95 % interval `low` to `high` (Welch's, for two seeds and
    more), `closed` the share of the gap between student alone and teacher that was closed. Among several groups of the
    student alone it is the one with most flags in common. What cannot be said is NaN.
    """
    found = []
    for group in groups:
        row: dict[str, Any] = {"teacher": group.teacher or "-", "student": group.student}
        row |= {"recipe": recipe(group, groups), "seeds": len(group.results)}
        for which, spread in (("last", "spread"), ("best", "best_spread")):
            values = group.accuracies(which)
            row |= {which: statistics.mean(values), spread: statistics.stdev(values) if values[1:] else math.nan}
        row |= {"seconds": statistics.mean(each["seconds"] for each in group.results), "first_run": group.runs[0]}
        found.append(row | _gain(group, groups))
    return found


def _gain(group: Group, groups: Sequence[Group]) -> dict[str, float]:
    """What a group gained over the student alone."""
    gain = dict.fromkeys(("beyond", "low", "high", "closed"), math.nan)
    bases = [each for each in groups if not (each.teacher or each.methods) and each.student == group.student]
    if group in bases or not bases:
        return gain
    base = max(bases, key=lambda each: len(set(each.flags) & set(group.flags))).accuracies("last")
    own = group.accuracies("last")
    gain["beyond"] = statistics.mean(own) - statistics.mean(base)
    if own[1:] and base[1:] and (statistics.stdev(own) or statistics.stdev(base)):
        interval = stats.ttest_ind(own, base, equal_var=False).confidence_interval(0.95)
        gain |= {"low": float(interval.low), "high": float(interval.high)}
    known = [100 * each["teacher_accuracy"] for each in group.results if "teacher_accuracy" in each]
    gap = statistics.mean(known) - statistics.mean(base) if known else 0.0
    return gain | {"closed": gain["beyond"] / gap} if gap > 0 else gain


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """One table for each pair of teacher and student; a student alone stands at the top of every table of its own."""
    tables = []
    pairs = dict.fromkeys((row["teacher"], row["student"]) for row in found)
    for teacher, student in pairs:
        if teacher == "-" and any(other != "-" and same == student for other, same in pairs):
            continue
        head = f"{student}, taught by {teacher}:" if teacher != "-" else f"{student}:"
        lines = [head, "", f"| {' | '.join(HEADS)} |", "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|"]
        lines += [_line(row) for row in found if row["student"] == student and row["teacher"] in ("-", teacher)]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _line(row: dict[str, Any]) -> str:
    def text(form: str, *names: str) -> str:
        return "-" if any(math.isnan(row[name]) for name in names) else form.format(*(row[name] for name in names))

    cells = [row["recipe"].replace("|", "\\|"), str(row["seeds"]), text("{:.2f}", "last"), text("{:.2f}", "spread")]
    cells += [text("{:.2f}", "best"), text("{:.2f}", "best_spread"), text("{:+.2f}", "beyond")]
    cells += [text("{:+.2f} to {:+.2f}", "low", "high"), text("{:.0%}", "closed"), text("{:.0f}", "seconds")]
    return "| " + " | ".join(cells) + " |"


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """The same rows as CSV, unrounded, with a line of COLUMNS first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def plot(groups: Sequence[Group], path: Path) -> None:
    """A picture of every pair: a point for each seed, a bar at the mean, lines for student alone and teacher."""
    from matplotlib.figure import Figure

    students = list(dict.fromkeys((each.teacher, each.student) for each in groups if each.teacher or each.methods))
    students = students or list(dict.fromkeys(("", each.student) for each in groups))
    panels = [[each for each in groups if each.student == s and each.teacher in ("", t)] for t, s in students]
    heights = [len(panel) + 1.6 for panel in panels]
    figure = Figure(figsize=(8, 0.36 * sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for (teacher, student), panel, axis in zip(students, panels, axes):
        for place, group in enumerate(panel):
            values = group.accuracies("last")
            dots = {"color": "#0072B2", "alpha": 0.6, "mec": "white", "label": "a seed"}
            axis.plot(values, [place] * len(values), "o", **dots)
            axis.plot(statistics.mean(values), place, "|k", markersize=16, markeredgewidth=2, label="their mean")
            if not (group.teacher or group.methods):
                axis.axvline(statistics.mean(values), color="0.5", linestyle=":", label="the student alone")
        known = [100 * each["teacher_accuracy"] for g in panel for each in g.results if "teacher_accuracy" in each]
        if known:
            axis.axvline(statistics.mean(known), color="#D55E00", linestyle="--", label="its teacher")
        axis.set_yticks(range(len(panel)), [_short(recipe(group, groups)) for group in panel])
        axis.invert_yaxis()
        axis.margins(y=0.15)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(f"{student}, taught by {Path(teacher).name}" if teacher else student, loc="left", fontsize=10)
    axes[-1].set_xlabel("test accuracy after the last epoch, %")
    shown = {line.get_label(): line for axis in axes for line in axis.get_lines() if line.get_label()[0] != "_"}
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _short(text: str, length: int = 44) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
