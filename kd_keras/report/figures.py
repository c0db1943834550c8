"""The figures of the report: each takes numbers and names, and gives an `<svg>` element.

Nothing is told by colour alone: every line has its own mark and dash, and its name at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kd_keras.report.svg import HEAT, HEAT_STRENGTH, INK, PAPER, RULE, SERIES, SOFT, axes, svg

MARKS = ("s", "o", "^", "D", "v", "P", "X")  # in the order of drawing.SERIES
GLYPHS = ("■", "●", "▲", "◆", "▼", "✚", "✖")  # the same in HTML
DASHES = ("-", "-", "--", "-.", ":", (0, (6, 2, 1, 2)), (0, (1, 1)))
THIRD = 250  # the width of figures that stand three side by side
FEW = 5  # images of a bin
NUMBERED = 20  # a heat map of more rows than this shows no numbers: they could not be read


class Line(NamedTuple):
    """One line of a figure: its `name`, which `look` (a place in MARKS), and its points; NaN is no point.

    `low` and `high`, where given, are the ends of each point's interval.
    """

    name: str
    look: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def lines(name: str, alt: str, drawn: Sequence[Line], across: str, up: str, percent: bool = True) -> str:
    """Lines over whole numbers (epochs, severities), each named at its end.

    >>> '<text' in lines("a", "One line", [Line("student", 1, [0, 1], [0.1, 0.5])], "epoch", "accuracy")
    True
    """
    height = 230
    with axes(height) as ax:
        for line in drawn:
            x, y = _known(line.x, line.y)
            mark = {"marker": MARKS[line.look], "markevery": max(1, len(x) // 12)}
            ax.plot(x, y, color=SERIES[line.look], linestyle=DASHES[line.look], **mark)
        ax.margins(x=0.03)
        ax.set(xlabel=across)
        ax.set_title(up, color=SOFT)
        ax.xaxis.set_major_locator(_ticker().MaxNLocator(6, integer=True))
        if percent:
            ax.yaxis.set_major_formatter(_percent)
        ends = [_known(line.x, line.y)[1][-1] for line in drawn]
        bottom, top = ax.get_ylim()
        for line, place in zip(drawn, spread(ends, 13 * (top - bottom) / (height - 60))):
            where = {"transform": ax.get_yaxis_transform(), "va": "center", "clip_on": False}
            ax.text(1.02, place, line.name, color=SERIES[line.look], **where)
    return svg(ax.figure, name, alt)


def trade(name: str, alt: str, points: Sequence[Line], across: str) -> str:
    """Accuracy over a cost, one marked and named point a model, with its interval.

    >>> svg = trade("a", "A point", [Line("teacher", 0, [5.0], [0.9], [0.88], [0.92])], "milliseconds")
    >>> "teacher" in svg
    True
    """
    with axes(200, THIRD) as ax:
        for point in points:
            (x,), (y,) = point.x, point.y
            if point.low is not None and point.high is not None:
                ax.plot([x, x], [point.low[0], point.high[0]], color=SERIES[point.look], linewidth=1.4)
            ax.plot([x], [y], MARKS[point.look], color=SERIES[point.look], markersize=9)
        costs = [point.x[0] for point in points]
        middle = (min(costs) * max(costs)) ** 0.5
        if max(costs) > 4 * min(costs) > 0:
            ax.set_xscale("log")
            between = (1, 2, 5) if max(costs) < 15 * min(costs) else (1,)
            ax.xaxis.set_major_locator(_ticker().LogLocator(subs=between))
        else:
            ax.xaxis.set_major_locator(_ticker().MaxNLocator(4))
        ax.margins(x=0.15, y=0.15)
        bottom, top = ax.get_ylim()
        for left in (True, False):
            here = [point for point in points if (point.x[0] > middle) == left]
            places = spread([point.y[0] for point in here], 12 * (top - bottom) / 150)
            where = {"textcoords": "offset points", "ha": "right" if left else "left", "va": "center"}
            for point, place in zip(here, places):
                aside = (-10 if left else 10, 0)
                ax.annotate(point.name, (point.x[0], place), xytext=aside, color=SERIES[point.look], **where)
        ax.set(xlabel=across)
        ax.set_title("accuracy", color=SOFT)
        many = max(costs) >= 1000  # thousands, millions; a few milliseconds stay as they are
        ax.xaxis.set_major_formatter(_ticker().EngFormatter(sep=" ") if many else lambda cost, _: f"{cost:g}")
        ax.xaxis.set_minor_locator(_ticker().NullLocator())
        ax.yaxis.set_major_locator(_ticker().MaxNLocator(5))
        ax.yaxis.set_major_formatter(_percent)
    return svg(ax.figure, name, alt)


def reliability(name: str, alt: str, before: np.ndarray, after: np.ndarray | None, look: int) -> str:
    """Accuracy over confidence by bin; the larger a mark, the more images; hollow after temperature scaling.

    Args:
        before: `(bins, 3)`: mean confidence, accuracy and number of images; bins of fewer than FEW are left out, as
            they may lie anywhere.
        after: the same after scaling, or `None`.

    >>> bins = np.array([[0.4, 0.5, 10], [0.9, 0.8, 90]])
    >>> "var(--series-1)" in reliability("a", "Two bins", bins, None, 1)
    True
    """
    with axes(THIRD - 8, THIRD) as ax:
        ax.plot([0, 1], [0, 1], "--", color=SOFT, linewidth=1)
        for bins, fill, dash in ((before, SERIES[look], "-"), (after, PAPER, ":")):
            if bins is None:
                continue
            confidence, right, count = np.asarray(bins, "float64")[np.asarray(bins)[:, 2] >= FEW].T
            ax.plot(confidence, right, color=SERIES[look], linestyle=dash, linewidth=1.4)
            size = 14 + 100 * count / count.max(initial=1)
            edge = {"facecolor": fill, "edgecolor": SERIES[look], "linewidth": 1.3, "zorder": 3}
            ax.scatter(confidence, right, s=size, marker=MARKS[look], **edge)
        ax.set(xlabel="confidence", xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal")
        ax.set_title("accuracy", color=SOFT)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(_ticker().MultipleLocator(0.25))
            axis.set_major_formatter(lambda share, _: _percent(share, _) if share in (0.5, 1) else "")
    return svg(ax.figure, name, alt)


def dots(name: str, alt: str, names: Sequence[str], drawn: Sequence[Line], across: str) -> str:
    """One row a name, one mark a model; `drawn` have their values in `x` and no `y`.

    >>> dots("a", "Two rows", ["cat", "dog"], [Line("teacher", 0, [0.5, 0.7], ())], "accuracy").count("<use")
    2
    """
    rows = np.arange(len(names))
    every = np.array([line.x for line in drawn], "float64")
    with axes(58 + 21 * len(names)) as ax:
        for row in rows[np.isfinite(every).any(0)]:
            known = every[:, row][np.isfinite(every[:, row])]
            ax.plot([known.min(), known.max()], [row, row], color=SOFT, linewidth=1.2)
        for line in drawn:
            edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.8, "markersize": 7.5}
            ax.plot(line.x, rows, MARKS[line.look], color=SERIES[line.look], linestyle="", zorder=3, **edge)
        ax.set_yticks(rows, [short(each) for each in names], color=INK)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.margins(x=0.06)
        ax.spines["left"].set_visible(False)
        ax.set(xlabel=across)
        ax.xaxis.set_major_locator(_ticker().MaxNLocator(5))
        ax.xaxis.set_major_formatter(_percent)
    return svg(ax.figure, name, alt)


def heat(name: str, alt: str, shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], sides: tuple) -> str:
    """A table of shares from 0 to 1, the fuller the darker, with its numbers in per cent where they can be read.

    The strength of one colour over the page's own is even in lightness and serves light and dark pages alike. Without
    numbers it is that of the share's square root, so that rare mistakes are seen.

    Args:
        shares: `(rows, columns)`.
        sides: what the rows and the columns are.

    >>> heat("a", "One cell", np.array([[0.5]]), ["cat"], ["dog"], ("true", "said")).count(">50<")
    1
    """
    height, width = shares.shape
    cell = min(44, 236 / width)
    with axes(84 + cell * height, 84 + cell * width) as ax:
        if max(shares.shape) > NUMBERED:
            strength = (255 * np.sqrt(np.clip(np.nan_to_num(shares), 0, 1))).astype("uint8")
            blue = np.broadcast_to(np.array([0, 114, 178], "uint8"), (height, width, 3))
            ax.imshow(np.concatenate([blue, strength[..., None]], -1), interpolation="none")
            ax.xaxis.set_major_locator(_ticker().MaxNLocator(6, integer=True))
        else:
            _cells(ax, shares, min(10.5, cell * 0.4))
            upright = max(map(len, columns)) > 2
            ax.set_xticks(range(width), [short(each) for each in columns], rotation=90 if upright else 0, color=INK)
            ax.set_yticks(range(height), [short(each) for each in rows], color=INK)
        ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", ylabel=sides[0], xlabel=sides[1])
        ax.grid(False)
        ax.spines[:].set(visible=max(shares.shape) > NUMBERED, color=RULE)
    return svg(ax.figure, name, alt)


def _cells(ax, shares: np.ndarray, letters: float) -> None:
    from matplotlib.patches import Rectangle

    for (row, column), share in np.ndenumerate(shares):
        corner = (column - 0.47, row - 0.47)
        ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=RULE, alpha=0.35, linewidth=0))
        if np.isfinite(share) and share > 0:
            strength = HEAT_STRENGTH * min(1.0, float(share))
            ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=HEAT, alpha=strength, linewidth=0))
        if np.isfinite(share) and share >= 0.005:
            ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center_baseline", fontsize=letters)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near the wanted ones, in their order, no two nearer than `gap`.

    >>> spread([0.5, 0.5, 2.0], 1.0)
    [0.0, 1.0, 2.0]
    """
    order = np.argsort(wanted, kind="stable")
    placed = np.asarray(wanted, "float64")[order]
    for _ in range(50):
        short_by = np.maximum(0, gap - np.diff(placed))
        if short_by.max(initial=0) < 1e-3 * gap:
            break
        placed[:-1] -= short_by / 2
        placed[1:] += short_by / 2
    result = np.empty_like(placed)
    result[order] = placed
    return result.round(6).tolist()


def short(name: str, length: int = 14) -> str:
    """A name that fits beside an axis.

    >>> short("a very long name indeed"), short("cat")
    ('a very …indeed', 'cat')
    """
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - half]}…{name[-half:]}"


def _known(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
    return x[np.isfinite(y)], y[np.isfinite(y)]


def _percent(share: float, _: int) -> str:
    return f"{100 * share:.4g}\u00a0%"


def _ticker():
    from matplotlib import ticker

    return ticker
