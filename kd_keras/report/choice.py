"""The table and the figure of a choice of a student: accuracy over the time and the size of each network's export."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kd_keras.files import write_atomically

COSTS = {"milliseconds": "ms for one image", "kilobytes": "kB"}


class Point(NamedTuple):
    """A network of the figure.

    Attributes:
        name: of the network, with its recipe if there are several.
        kilobytes: the size of its export, in 1000 bytes; `None` if it has none.
        milliseconds: the time for one image; `None` if it is not known.
        accuracy: on the test images; `None` if the network was not trained, because it does not fit.
        epochs: of its last training; `None` if it was not trained here.
        role: "candidate", "chosen", "baseline" (the chosen one, trained without a teacher) or "teacher".
    """

    name: str
    kilobytes: float | None
    milliseconds: float | None
    accuracy: float | None
    epochs: int | None = None
    role: str = "candidate"


def pareto_front(points: Mapping[str, tuple[float, ...]]) -> list[str]:
    """The names of the points that no other one exceeds in one coordinate without being lower in another.

    >>> pareto_front({"a": (0.9, -5.0), "b": (0.8, -1.0), "c": (0.8, -2.0)})
    ['a', 'b']
    """
    values = points.values()
    return [
        name
        for name, point in points.items()
        if not any(rival != point and all(b >= a for a, b in zip(point, rival, strict=True)) for rival in values)
    ]


def find_front(points: Sequence[Point], costs: Sequence[str] = tuple(COSTS)) -> list[Point]:
    """The trained candidates that no other one exceeds in accuracy without a higher cost, the cheapest first."""
    by_name = {point.name: point for point in points if _competes(point)}
    goals = {
        name: (point.accuracy or 0.0, *(-getattr(point, cost) for cost in costs)) for name, point in by_name.items()
    }
    return sorted((by_name[name] for name in pareto_front(goals)), key=lambda point: getattr(point, costs[0]))


def _competes(point: Point) -> bool:
    return point.role in ("candidate", "chosen") and point.accuracy is not None


def markdown(points: Sequence[Point]) -> str:
    """The points as a Markdown table, in their order.

    >>> print(markdown([Point("resnet8", 320.5, 0.41, 0.875, 9, "chosen"), Point("vgg8", 15800.0, 2.0, None)]))
    | # | | | epochs | accuracy, % | kB | ms |
    |---:|---|---|---:|---:|---:|---:|
    | 1 | resnet8 | chosen, on the front | 9 | 87.50 | 320.5 | 0.410 |
    | 2 | vgg8 | does not fit | - | - | 15,800.0 | 2.000 |
    """
    front = find_front(points)
    lines = ["| # | | | epochs | accuracy, % | kB | ms |", "|---:|---|---|---:|---:|---:|---:|"]
    for number, point in enumerate(points, 1):
        remarks = [point.role] if point.role in ("chosen", "baseline") else []
        remarks += ["on the front"] if point in front else []
        remarks += ["does not fit"] if point.accuracy is None and point.role == "candidate" else []
        accuracy = "-" if point.accuracy is None else f"{100 * point.accuracy:.2f}"
        size = "-" if point.kilobytes is None else f"{point.kilobytes:,.1f}"
        time = "-" if point.milliseconds is None else f"{point.milliseconds:.3f}"
        cells = [str(number), point.name, ", ".join(remarks), str(point.epochs or "-"), accuracy, size, time]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def in_order(points: Sequence[Point]) -> list[Point]:
    """The points, the most accurate first and those without an accuracy last."""
    return sorted(points, key=lambda point: -1.0 if point.accuracy is None else point.accuracy, reverse=True)


def as_csv(points: Sequence[Point]) -> str:
    """The points as CSV, with one column for each attribute."""
    text = io.StringIO()
    csv.writer(text).writerows([Point._fields, *points])
    return text.getvalue()


def plot(points: Sequence[Point], limits: Mapping[str, float], path: str | os.PathLike) -> None:
    """Draws accuracy over time and over size to an image file.

    Every mark has its number in `markdown`. A line connects the candidates on the front of each panel, and dotted lines
    are the limits.

    Args:
        points: the networks; those without an accuracy are left out.
        limits: "kilobytes", "milliseconds", both or none.
        path: the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axis, (cost, label) in zip(panels, COSTS.items(), strict=True):
        _draw_panel(axis, points, cost)
        if cost in limits:
            axis.axvline(limits[cost], color="0.4", linestyle=":", label="limit")
        axis.set_xlabel(label)
    panels[0].set_ylabel("accuracy on the test images, %")
    legend = {line.get_label(): line for axis in panels for line in axis.get_lines() if line.get_label()[0] != "_"}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    write_atomically(path, lambda name: figure.savefig(name, dpi=150))


def _draw_panel(axis: Any, points: Sequence[Point], cost: str) -> None:
    """Draws the points over one cost, and the front of accuracy and this cost."""
    longest = max((point.epochs or 0 for point in points), default=0)
    for number, point in enumerate(points, 1):
        x, y = getattr(point, cost), None if point.accuracy is None else 100 * point.accuracy
        if y is None:
            continue
        if point.role == "teacher":
            axis.axhline(y, color="#D55E00", linestyle="--", linewidth=1, zorder=0)
        if x is not None:
            axis.plot(x, y, **_style(point, longest))
            offset = (-5, -11) if point.role == "baseline" else (5, 4)  # often at the mark of the chosen one
            align = "right" if point.role == "baseline" else "left"
            axis.annotate(str(number), (x, y), offset, textcoords="offset points", fontsize=7, ha=align)
    front = find_front(points, (cost,))
    values = [(getattr(point, cost), 100 * (point.accuracy or 0.0)) for point in front]
    axis.plot(*zip(*values, strict=True), drawstyle="steps-post", color="0.6", linewidth=1, zorder=0, label="front")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axis.tick_params(axis="x", which="both", labelsize=8, length=3, pad=3)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    axis.margins(0.12)
    axis.spines[["top", "right"]].set_visible(False)


def _style(point: Point, longest: int) -> dict[str, Any]:
    """The mark of a point: hollow if the candidate left before the last rung."""
    marks = {"chosen": ("*", "#009E73", 14), "baseline": ("s", "0.35", 7), "teacher": ("D", "#D55E00", 7)}
    mark, color, size = marks.get(point.role, ("o", "#0072B2", 7))
    is_early = point.role == "candidate" and point.epochs != longest
    names = {"candidate": "fewer epochs" if is_early else "last rung", "baseline": "chosen, without a teacher"}
    label = names.get(point.role, point.role)
    return {
        "marker": mark, "color": color, "markersize": size, "linestyle": "none", "label": label,
        "markerfacecolor": "white" if is_early else color,
    }  # fmt: skip
