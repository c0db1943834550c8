"""Text in figures: names that fit, labels that do not overlap, and ticks in percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Moves positions apart, keeping their order, so that no two are nearer than `gap`.

    >>> spread([0.5, 0.5, 2.0], 1.0)
    [0.0, 1.0, 2.0]
    """
    order = np.argsort(positions, kind="stable")
    placed = np.asarray(positions, "float64")[order]
    for _ in range(50):
        missing = np.maximum(0, gap - np.diff(placed))
        if missing.max(initial=0) < 1e-3 * gap:
            break
        placed[:-1] -= missing / 2
        placed[1:] += missing / 2
    result = np.empty_like(placed)
    result[order] = placed
    return result.round(6).tolist()


def shorten(name: str, length: int = 14) -> str:
    """A name that fits beside an axis.

    >>> shorten("a very long name indeed"), shorten("cat")
    ('a very …indeed', 'cat')
    """
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - half]}…{name[-half:]}"


def percent_tick(fraction: float, _: int) -> str:
    r"""A fraction as a tick of an axis, for matplotlib's formatters.

    >>> percent_tick(0.25, 0)
    '25\xa0%'
    """
    return f"{100 * fraction:.4g}\u00a0%"
