"""The figures about faces: ROC curves with a logarithmic rate of false accepts, and histograms of similarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_keras.report.figures import DASHES, MARKS
from kd_keras.report.labels import percent_tick
from kd_keras.report.sections.base import Network
from kd_keras.report.svg import INK, SERIES, SOFT, axes, to_svg
from kd_keras.tasks.faces.verification import Roc

BINS = 40
HEIGHT = 230


def draw_roc(name: str, alt: str, networks: Sequence[tuple[Network, Roc]], impostors: int) -> str:
    """TAR over FAR, from the lowest rate that the impostor pairs can measure to 1; a legend names the curves.

    Args:
        name: unique on the page.
        alt: the text alternative.
        networks: each with its curve.
        impostors: the number of impostor pairs.

    >>> from kd_keras.tasks.faces.verification import measure_roc
    >>> roc = measure_roc(np.array([0.9, 0.5, 0.4, 0.1]), np.array([True, False, True, False]))
    >>> "var(--series-1)" in draw_roc("roc", "A curve", [(Network("student", "", 1, {}, {}), roc)], 2)
    True
    """
    from matplotlib import ticker

    lowest = 1 / impostors
    with axes(HEIGHT) as ax:
        for network, roc in networks:
            rates = np.append(lowest, roc.far[roc.far > lowest])
            accepts = [roc.tar[roc.far <= rate + 1e-12][-1] for rate in rates]
            style = {"color": SERIES[network.style], "linestyle": DASHES[network.style]}
            marks = {"marker": MARKS[network.style], "markevery": [0], "drawstyle": "steps-post"}
            ax.plot(rates, accepts, label=network.label, **style, **marks)
        ax.set(xscale="log", xlabel="FAR", xlim=(min(lowest, 0.5), 1), ylim=(0, 1.03))
        ax.set_title("TAR", color=SOFT)
        ax.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
        ax.xaxis.set_minor_formatter(ticker.NullFormatter())
        ax.yaxis.set_major_formatter(percent_tick)
        ax.legend(frameon=False, loc="lower right")
    return to_svg(ax.figure, name, alt)


def draw_similarities(
    name: str,
    alt: str,
    network: Network,
    similarity: np.ndarray,
    same: np.ndarray,
    thresholds: Mapping[str, float],
    lowest: float,
) -> str:
    """Histograms of the similarities of genuine and impostor pairs, each of area 1, with thresholds as vertical lines.

    Genuine pairs are filled, impostor pairs are an outline, so that they differ without color.

    Args:
        name: unique on the page.
        alt: the text alternative.
        network: for its color.
        similarity: `(P,)` cosines.
        same: `(P,)` booleans.
        thresholds: cosines by their names.
        lowest: the left end of the axis, equal for networks that are compared.

    >>> similarity, same = np.array([0.9, 0.1, 0.2]), np.array([True, False, False])
    >>> student = Network("student", "", 1, {}, {})
    >>> svg = draw_similarities("h", "Two groups", student, similarity, same, {"FAR 1%": 0.5}, lowest=0.0)
    >>> "genuine" in svg and "FAR 1%" in svg
    True
    """
    edges = np.linspace(lowest, 1, BINS + 1)
    with axes(HEIGHT - 20) as ax:
        color = SERIES[network.style]
        options: dict[str, Any] = {"bins": edges, "density": True}
        genuine, _, _ = ax.hist(similarity[same], **options, color=color, alpha=0.55, label="genuine")
        impostor, _, _ = ax.hist(similarity[~same], **options, histtype="step", color=INK, label="impostor")
        top = 1.12 * max(genuine.max(), impostor.max())
        for text, threshold in thresholds.items():
            ax.axvline(threshold, color=SOFT, linestyle=":", linewidth=1.2, label=text)
        ax.set(xlabel="cosine", xlim=(lowest, 1), ylim=(0, top))
        ax.set_yticks([])
        ax.set_title(network.label, color=color)
        ax.legend(frameon=False, loc="upper left")
    return to_svg(ax.figure, name, alt)
