"""The figures of the report. Each function takes numbers and names and returns an `<svg>` element.

No information is in the color alone: every line has its own mark and dash, and its name at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from kd_keras.report.labels import percent_tick, shorten, spread
from kd_keras.report.svg import HEAT, HEAT_STRENGTH, INK, PAPER, RULE, SERIES, SOFT, axes, to_svg

MARKS = ("s", "o", "^", "D", "v", "P", "X")  # in the order of svg.SERIES
GLYPHS = ("■", "●", "▲", "◆", "▼", "✚", "✖")  # the same in HTML
DASHES = ("-", "-", "--", "-.", ":", (0, (6, 2, 1, 2)), (0, (1, 1)))
THIRD = 250  # the width of figures that are shown three side by side
MIN_BIN = 5  # a bin with fewer images is not drawn
Numbers: TypeAlias = "Sequence[float] | np.ndarray"
MAX_NUMBERED = 20  # a heat map with more rows shows no numbers, because they would be illegible


class Series(NamedTuple):
    """One line of a figure: its `name`, its `style` (an index into MARKS), and its points; NaN is no point.

    `low` and `high` are the ends of each point's interval, or `None`.
    """

    name: str
    style: int
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


def draw_lines(name: str, alt: str, series: Sequence[Series], x_label: str, y_label: str, percent: bool = True) -> str:
    """Lines over whole numbers (epochs, severities), each named at its end.

    >>> '<text' in draw_lines("a", "One line", [Series("student", 1, [0, 1], [0.1, 0.5])], "epoch", "accuracy")
    True
    """
    height = 230
    with axes(height) as ax:
        for line in series:
            x, y = _finite(line.x, line.y)
            mark = {"marker": MARKS[line.style], "markevery": max(1, len(x) // 12)}
            ax.plot(x, y, color=SERIES[line.style], linestyle=DASHES[line.style], **mark)
        ax.margins(x=0.03)
        ax.set(xlabel=x_label)
        ax.set_title(y_label, color=SOFT)
        ax.xaxis.set_major_locator(_ticker().MaxNLocator(6, integer=True))
        if percent:
            ax.yaxis.set_major_formatter(percent_tick)
        ends = [_finite(line.x, line.y)[1][-1] for line in series]
        bottom, top = ax.get_ylim()
        levels = spread(ends, 13 * (top - bottom) / (height - 60))
        for line, level in zip(series, levels, strict=True):
            position = {"transform": ax.get_yaxis_transform(), "va": "center", "clip_on": False}
            ax.text(1.02, level, line.name, color=SERIES[line.style], **position)
    return to_svg(ax.figure, name, alt)


def draw_trade_off(name: str, alt: str, points: Sequence[Series], x_label: str, y_label: str = "accuracy") -> str:
    """Accuracy, or what `y_label` names, over a cost: one marked and named point per model, with its interval.

    >>> point = Series("teacher", 0, [5.0], [0.9], [0.88], [0.92])
    >>> "teacher" in draw_trade_off("a", "A point", [point], "milliseconds")
    True
    """
    with axes(200, THIRD) as ax:
        for point in points:
            (x,), (y,) = point.x, point.y
            if point.low is not None and point.high is not None:
                ax.plot([x, x], [point.low[0], point.high[0]], color=SERIES[point.style], linewidth=1.4)
            ax.plot([x], [y], MARKS[point.style], color=SERIES[point.style], markersize=9)
        costs = [point.x[0] for point in points]
        _set_cost_axis(ax, costs)
        ax.margins(x=0.15, y=0.15)
        _name_points(ax, points, middle=(min(costs) * max(costs)) ** 0.5)
        ax.set(xlabel=x_label)
        ax.set_title(y_label, color=SOFT)
        ax.yaxis.set_major_locator(_ticker().MaxNLocator(5))
        ax.yaxis.set_major_formatter(percent_tick)
    return to_svg(ax.figure, name, alt)


def _set_cost_axis(ax: Any, costs: Sequence[float]) -> None:
    """A logarithmic axis if the costs differ by more than a factor of four."""
    if max(costs) > 4 * min(costs) > 0:
        ax.set_xscale("log")
        ticks = (1, 2, 5) if max(costs) < 15 * min(costs) else (1,)
        ax.xaxis.set_major_locator(_ticker().LogLocator(subs=ticks))
    else:
        ax.xaxis.set_major_locator(_ticker().MaxNLocator(4))
    abbreviated = max(costs) >= 1000  # with k and M; a few milliseconds are shown as they are
    ax.xaxis.set_major_formatter(_ticker().EngFormatter(sep=" ") if abbreviated else lambda cost, _: f"{cost:g}")
    ax.xaxis.set_minor_locator(_ticker().NullLocator())


def _name_points(ax: Any, points: Sequence[Series], middle: float) -> None:
    """Writes the names of points to their left if they are right of the middle, else to their right."""
    bottom, top = ax.get_ylim()
    for left in (True, False):
        side = [point for point in points if (point.x[0] > middle) == left]
        levels = spread([point.y[0] for point in side], 12 * (top - bottom) / 150)
        position = {"textcoords": "offset points", "ha": "right" if left else "left", "va": "center"}
        for point, level in zip(side, levels, strict=True):
            offset = (-10 if left else 10, 0)
            ax.annotate(point.name, (point.x[0], level), xytext=offset, color=SERIES[point.style], **position)


def draw_reliability(
    name: str,
    alt: str,
    before: np.ndarray,
    after: np.ndarray | None,
    style: int,
    labels: tuple[str, str] = ("confidence", "accuracy"),
) -> str:
    """Accuracy over confidence by bin. A larger mark stands for more images; hollow marks are after scaling.

    Args:
        before: `(bins, 3)`: mean confidence, accuracy and number of images; bins of fewer than MIN_BIN images are left
            out, because their accuracy is mostly noise.
        after: the same after temperature scaling, or `None`.
        style: an index into MARKS.
        labels: what the axes show.

    >>> bins = np.array([[0.4, 0.5, 10], [0.9, 0.8, 90]])
    >>> "var(--series-1)" in draw_reliability("a", "Two bins", bins, None, 1)
    True
    """
    with axes(THIRD - 8, THIRD) as ax:
        ax.plot([0, 1], [0, 1], "--", color=SOFT, linewidth=1)
        for bins, fill, dash in ((before, SERIES[style], "-"), (after, PAPER, ":")):
            if bins is None:
                continue
            confidence, accuracy, count = np.asarray(bins, "float64")[np.asarray(bins)[:, 2] >= MIN_BIN].T
            ax.plot(confidence, accuracy, color=SERIES[style], linestyle=dash, linewidth=1.4)
            size = 14 + 100 * count / count.max(initial=1)
            edge = {"facecolor": fill, "edgecolor": SERIES[style], "linewidth": 1.3, "zorder": 3}
            ax.scatter(confidence, accuracy, s=size, marker=MARKS[style], **edge)
        ax.set(xlabel=labels[0], xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal")
        ax.set_title(labels[1], color=SOFT)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(_ticker().MultipleLocator(0.25))
            axis.set_major_formatter(lambda fraction, _: percent_tick(fraction, _) if fraction in (0.5, 1) else "")
    return to_svg(ax.figure, name, alt)


def draw_dots(name: str, alt: str, names: Sequence[str], series: Sequence[Series], x_label: str) -> str:
    """One row per name with one mark per model; the values of the series are in `x`, and `y` is empty.

    >>> draw_dots("a", "Two rows", ["cat", "dog"], [Series("teacher", 0, [0.5, 0.7], ())], "accuracy").count("<use")
    2
    """
    rows = np.arange(len(names))
    values = np.array([line.x for line in series], "float64")
    with axes(58 + 21 * len(names)) as ax:
        for row in rows[np.isfinite(values).any(0)]:
            finite = values[:, row][np.isfinite(values[:, row])]
            ax.plot([finite.min(), finite.max()], [row, row], color=SOFT, linewidth=1.2)
        for line in series:
            edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.8, "markersize": 7.5}
            ax.plot(line.x, rows, MARKS[line.style], color=SERIES[line.style], linestyle="", zorder=3, **edge)
        ax.set_yticks(rows, [shorten(label) for label in names], color=INK)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.margins(x=0.06)
        ax.spines["left"].set_visible(False)
        ax.set(xlabel=x_label)
        ax.xaxis.set_major_locator(_ticker().MaxNLocator(5))
        ax.xaxis.set_major_formatter(percent_tick)
    return to_svg(ax.figure, name, alt)


def draw_heat_map(
    name: str, alt: str, fractions: np.ndarray, rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str]
) -> str:
    """A table of fractions from 0 to 1 in a color of increasing strength, with numbers in percent if they are legible.

    One color with increasing opacity is even in lightness and works on light and dark pages. Without numbers the
    opacity follows the square root of the fraction, so that rare errors are visible.

    Args:
        fractions: `(rows, columns)`.
        labels: of the rows and of the columns.

    >>> draw_heat_map("a", "One cell", np.array([[0.5]]), ["cat"], ["dog"], ("true", "predicted")).count(">50<")
    1
    """
    height, width = fractions.shape
    cell = min(44, 236 / width)
    with axes(84 + cell * height, 84 + cell * width) as ax:
        if max(fractions.shape) > MAX_NUMBERED:
            strength = (255 * np.sqrt(np.clip(np.nan_to_num(fractions), 0, 1))).astype("uint8")
            blue = np.broadcast_to(np.array([0, 114, 178], "uint8"), (height, width, 3))
            ax.imshow(np.concatenate([blue, strength[..., None]], -1), interpolation="none")
            ax.xaxis.set_major_locator(_ticker().MaxNLocator(6, integer=True))
        else:
            _draw_cells(ax, fractions, min(10.5, cell * 0.4))
            vertical = max(map(len, columns)) > 2
            ax.set_xticks(
                range(width), [shorten(label) for label in columns], rotation=90 if vertical else 0, color=INK
            )
            ax.set_yticks(range(height), [shorten(label) for label in rows], color=INK)
        ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", ylabel=labels[0], xlabel=labels[1])
        ax.grid(False)
        ax.spines[:].set(visible=max(fractions.shape) > MAX_NUMBERED, color=RULE)
    return to_svg(ax.figure, name, alt)


def _draw_cells(ax: Any, fractions: np.ndarray, font_size: float) -> None:
    from matplotlib.patches import Rectangle

    for (row, column), fraction in np.ndenumerate(fractions):
        corner = (column - 0.47, row - 0.47)
        ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=RULE, alpha=0.35, linewidth=0))
        if np.isfinite(fraction) and fraction > 0:
            strength = HEAT_STRENGTH * min(1.0, float(fraction))
            ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=HEAT, alpha=strength, linewidth=0))
        if np.isfinite(fraction) and fraction >= 0.005:
            ax.text(column, row, f"{100 * fraction:.0f}", ha="center", va="center_baseline", fontsize=font_size)


def _finite(x: Numbers, y: Numbers) -> tuple[np.ndarray, np.ndarray]:
    positions, values = np.asarray(x, "float64"), np.asarray(y, "float64")
    return positions[np.isfinite(values)], values[np.isfinite(values)]


def _ticker() -> Any:
    from matplotlib import ticker

    return ticker
