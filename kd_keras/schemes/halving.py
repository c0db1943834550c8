"""Successive halving: all candidates train for a few epochs, the best third again for three times as many, and so on.

Jamieson and Talwalkar 2016, *Non-stochastic Best Arm Identification*, 1502.07943. The rungs are runs of `distill`, so
that an interrupted search resumes within a run; libraries of hyperparameter search repeat whole trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kd_keras.runs import distill
from kd_keras.runs.run import Run
from kd_keras.schemes.outcome import run_path


class Entry(NamedTuple):
    """What a rung trains: a candidate and the name of a recipe, which is empty if there is only one."""

    candidate: str
    recipe: str

    @property
    def name(self) -> str:
        """Both names for a table."""
        return f"{self.candidate}, {self.recipe}" if self.recipe else self.candidate


def plan_rungs(entries: int, epochs: int) -> list[tuple[int, int]]:
    """How many entries each rung trains, and for how many epochs: the best third for three times as many.

    >>> plan_rungs(12, epochs=54)
    [(12, 6), (4, 18), (2, 54)]
    """
    counts = [entries]
    while counts[-1] > 2:
        counts.append(-(-counts[-1] // 3))
    return [(count, max(1, epochs // 3 ** (len(counts) - 1 - rung))) for rung, count in enumerate(counts)]


def halve(
    entries: Sequence[Entry],
    rungs: Sequence[tuple[int, int]],
    requests: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    directory: Path,
) -> tuple[dict[Entry, Run], list[Run]]:
    """Trains the rungs, each from the beginning.

    Args:
        entries: what the first rung trains.
        rungs: as `plan_rungs` returns them.
        requests: the options of `distill` for each recipe.
        names: all candidates; the number of a run is its candidate's index.
        directory: of the runs `rung<r>/<number>-<model>`, with `-<recipe>` if there are several.

    Returns:
        The last run of each entry, and the runs of the last rung, the most accurate last; of equal ones the one that
        was better in the rung before.
    """
    runs: dict[Entry, Run] = {}
    for rung, (count, epochs) in enumerate(rungs):
        entries = sorted(entries, key=lambda entry: -accuracy(runs[entry]) if runs else 0.0)[:count]
        for entry in entries:
            path = run_path(directory / f"rung{rung}", names.index(entry.candidate), entry.candidate)
            path = path.with_name(f"{path.name}-{entry.recipe}") if entry.recipe else path
            runs[entry] = distill(student=entry.candidate, epochs=epochs, run=path, **requests[entry.recipe])
    return runs, sorted((runs[entry] for entry in reversed(entries)), key=accuracy)


def accuracy(run: Run) -> float:
    """The accuracy on the test images after the last epoch."""
    return float(run.result["last"]["val_accuracy"])
