"""Compares runs, or trains the runs of a plan first: `kd_keras.compare`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from kd_keras.evaluation.seeds import SeedGroup, summarize
from kd_keras.files import write_text
from kd_keras.report import comparison
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.run import Run
from kd_keras.runs.settings import to_lines
from kd_keras.runs.sweeps import Pair, finish_all, plan

LOGGER = logging.getLogger("kd_keras")
# Settings in which the runs of one group may differ: the seed, and those that do not change the training.
NOT_COMPARED = ("data_dir", "seed", "checkpoint_every", "keep")
NETWORKS = ("teacher", "student", "model", "peer")


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        groups: the complete runs; those that differ only in their seed are one group.
        unfinished: the paths of runs without a result.
    """

    groups: list[SeedGroup]
    unfinished: list[Path]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each group, as `kd_keras.evaluation.seeds.summarize` describes it."""
        return summarize(self.groups)

    def markdown(self) -> str:
        """A table for each pair of teacher and student."""
        return comparison.markdown(self.rows)

    def csv(self) -> str:
        """The rows as CSV."""
        return comparison.as_csv(self.rows)

    def latex(self) -> str:
        """The tables of `markdown` in LaTeX, for the package booktabs."""
        return comparison.latex(self.rows)

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the metric of all seeds to an image file."""
        comparison.plot(self.groups, path)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes compare.md, compare.csv, compare.tex and compare.png into a directory."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "compare.md", self.markdown() + "\n")
        write_text(directory / "compare.csv", self.csv())
        write_text(directory / "compare.tex", self.latex() + "\n")
        self.plot(directory / "compare.png")


def compare(
    runs: Sequence[Run | str | os.PathLike] = (),
    *,
    sweep: str | os.PathLike | None = None,
    pairs: Sequence[Pair] = (),
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    shard: tuple[int, int] = (0, 1),
    **options: Any,
) -> Comparison:
    """Compares complete runs: mean and spread over seeds, gain over the baseline, closed fraction of the gap.

    With `sweep` it first trains the runs of a plan, every recipe for every pair and seed, in this process. The same
    call resumes an interrupted sweep and retries failed runs; a failed run does not end the sweep. Complete runs are
    reused if they have the settings of the plan, and refused otherwise.

    Args:
        runs: complete runs, paths, or patterns of paths such as "runs/kd*".
        sweep: the directory of the runs of a plan, instead of `runs`.
        pairs: of the plan: (teacher, student), see `kd_keras.runs.sweeps.plan`.
        recipes: of the plan: by name, the options of `distill`.
        seeds: of the plan, (0, 1, 2) by default.
        shard: (i, n): this call trains the runs i, i + n, i + 2n, ... of the plan, with i from 0, so that n workers can
            divide them; (0, 1) by default.
        **options: of every run of the plan, as `Recipe` describes them.

    Returns:
        A `Comparison`: `markdown()` is its table, `unfinished` lists the runs without a result.

    Raises:
        ValueError: if neither or both of `runs` and `sweep` are passed, a path is not a run, the plan is incomplete, a
            complete run of the plan has other settings, no run has a result, a result has no metric of test images, or
            the runs are of several tasks.

    >>> import tempfile
    >>> from kd_keras.runs.train import train
    >>> directory, options = tempfile.mkdtemp(), {"model": "mlp(hidden=(4,))", "epochs": 2, "test_every": 2}
    >>> runs = [train(run=f"{directory}/seed{seed}", seed=seed, **options) for seed in (0, 1)]
    >>> [(row["recipe"], row["seeds"]) for row in compare(runs).rows]
    [('baseline', 2)]
    """
    if (sweep is None) == (not runs):
        received = "neither" if sweep is None else "both"
        raise ValueError(f"compare needs either runs or a sweep, but received {received}. Pass runs= or sweep=.")
    if sweep is None:
        paths = _find_runs(runs)
    else:
        if not recipes:
            raise ValueError(
                f"The sweep {os.fspath(sweep)} needs recipes, but received none. Pass recipes={{name: options}}."
            )
        planned = plan(sweep, pairs, recipes, seeds, options)
        finish_all(planned, shard)
        paths = [run.path for run in planned]
    groups, unfinished = group_runs(paths, {} if sweep is None else {run.path: run.recipe for run in planned})
    if not groups:
        raise ValueError(
            f"compare needs complete runs, but none of the {len(paths)} runs has a result: "
            f"{', '.join(map(str, paths[:5]))}. Train or resume them first."
        )
    return Comparison(groups, unfinished)


def _find_runs(runs: Sequence[Run | str | os.PathLike]) -> list[Path]:
    """The paths of runs and patterns in their order, without duplicates.

    Raises:
        ValueError: if a path or a pattern matches no run.
    """
    paths: dict[Path, Path] = {}  # by resolved path, because a run has several spellings
    for run in [runs] if isinstance(runs, (Run, str, os.PathLike)) else runs:
        if isinstance(run, Run):
            paths.setdefault(run.path.resolve(), run.path)
            continue
        matches = [Path(match) for match in sorted(glob(os.fspath(run))) if (Path(match) / "flags.txt").exists()]
        if not matches:
            raise ValueError(f"No run matches {os.fspath(run)!r}. Pass directories of runs, or patterns of them.")
        for match in matches:
            paths.setdefault(match.resolve(), match)
    return list(paths.values())


def group_runs(paths: Sequence[Path], names: Mapping[Path, str] | None = None) -> tuple[list[SeedGroup], list[Path]]:
    """The groups of the complete runs in the order of their first run, and the paths of the incomplete runs.

    Args:
        paths: the runs.
        names: the names of recipes by run; runs of different recipes are different groups.

    Raises:
        ValueError: if a complete run had no test images, so that its result has no metric, or the runs are of several
            tasks.
    """
    groups: dict[tuple, SeedGroup] = {}
    unfinished = []
    for path in paths:
        if not (path / "result.json").exists():
            unfinished.append(path)
            continue
        run = Run(path)
        metric = run.result.get("metric", "accuracy")
        if f"val_{metric}" not in run.result["last"]:
            raise ValueError(
                f"compare needs runs with test images, but the result of {path} has no {metric}. Leave out this run."
            )
        settings = run.settings
        shared = [line for name, value in _compared(settings).items() for line in to_lines(name, value)]
        shared += [f"--{name}={text}" for name, texts in run.given_objects.items() for text in texts]
        teacher = settings.get("teacher", "")
        teacher = " + ".join(map(_without_seed, teacher)) if isinstance(teacher, list) else _without_seed(teacher)
        student = settings.get("student") or settings.get("model") or settings.get("peer", "")
        student = " + ".join(student) if isinstance(student, list) else student
        name = (names or {}).get(path, "")
        key, seed = (teacher, student, name, *shared), str(settings.get("seed", Recipe.seed))
        group = groups.get(key, SeedGroup(teacher, student, tuple(shared), [], [], [], name))
        groups[key] = group._replace(
            runs=[*group.runs, str(path)], results=[*group.results, run.result], seeds=[*group.seeds, seed]
        )
    metrics = list(dict.fromkeys(group.metric for group in groups.values()))
    if len(metrics) > 1:
        raise ValueError(
            f"compare needs runs of one task, with one metric, but received runs with {' and '.join(metrics)}. Compare "
            "the runs of each task by themselves."
        )
    for group in groups.values():
        for seed in group.repeated_seeds:
            runs = [run for run, own_seed in zip(group.runs, group.seeds, strict=True) if own_seed == seed]
            LOGGER.warning("The runs %s have the same seed %s and count as one seed.", ", ".join(runs), seed)
    return list(groups.values()), unfinished


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the runs of one group share, besides their networks."""
    kept = {name: value for name, value in settings.items() if name not in (*NOT_COMPARED, *NETWORKS)}
    return kept | ({"recording": _without_seed(kept["recording"])} if "recording" in kept else {})


def _without_seed(source: str) -> str:
    """The path of a teacher or a recording; if every seed has its own in `<directory>/seed<n>`, that directory."""
    path = Path(source)
    return str(path.parent if path.name.startswith("seed") and path.name[4:].isdigit() else path) if source else ""
