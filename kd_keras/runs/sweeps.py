"""Trains the runs of a plan one after the other. Complete runs are reused, and a failed run does not end the sweep."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras

from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.seeds import BASELINE
from kd_keras.runs.distill import distill
from kd_keras.runs.run import Run
from kd_keras.runs.teachers import TeacherSource
from kd_keras.runs.train import train

LOGGER = logging.getLogger("kd_keras")
Pair: TypeAlias = tuple[TeacherSource, str]  # a teacher as `distill` takes it, and a student


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
        path: the directory of the run.
        student: a model of the zoo.
        options: of `distill`, or of `train` for a baseline.
        teacher: as `distill` takes it, or `None` for a baseline.
    """

    path: Path
    student: str
    options: Mapping[str, Any]
    teacher: TeacherSource | None = None

    @property
    def recipe(self) -> str:
        """The name of the recipe."""
        return self.path.parent.name

    @property
    def log(self) -> Path:
        """The file next to the run with its progress and its error."""
        return self.path.with_name(f"{self.path.name}.log")


def plan(
    directory: str | os.PathLike,
    pairs: Sequence[Pair],
    recipes: Mapping[str, Mapping[str, Any]],
    seeds: Iterable[int] = (0, 1, 2),
    shared: Mapping[str, Any] | None = None,
) -> list[PlannedRun]:
    """Plans every recipe for every pair and seed, and the baseline of every student.

    Args:
        directory: the directory of the runs; a run is `<directory>/<teacher>-<student>/<recipe>/seed<n>`.
        pairs: (teacher, student): a teacher as `distill` takes it, and a model of the zoo. "{seed}" in the path of a
            teacher, and of a recording in `recipes`, is replaced by the seed of the run.
        recipes: by name, the options of `distill`, such as `{"methods": ["kd"], "hard_weight": 0.1}`.
        seeds: the seeds of the runs, (0, 1, 2) by default.
        shared: options of every run, none by default.

    Raises:
        ValueError: if there is no pair, if a recipe has no name or the name of the baseline, if two pairs would have
            the same directory, or if runs are to be overwritten.

    >>> runs = plan("runs", [("teacher", "resnet8")], {"kd": {"methods": ["kd"]}}, [0], {"epochs": 3})
    >>> [str(run.path) for run in runs]
    ['runs/teacher-resnet8/baseline/seed0', 'runs/teacher-resnet8/kd/seed0']
    >>> runs[1].options
    {'epochs': 3, 'methods': ['kd'], 'seed': 0}
    """
    if not pairs:
        raise ValueError("A sweep needs at least one pair of a teacher and a student, but received none. Pass pairs=.")
    if BASELINE in recipes or not all(recipes):
        raise ValueError(f"The recipes of a sweep need names other than {BASELINE!r}, but received {list(recipes)}.")
    if any((options or {}).get("overwrite") for options in (shared, *recipes.values())):
        raise ValueError("A sweep reuses its complete runs, but received overwrite=True. Delete those to train anew.")
    runs, seeds = [], list(seeds)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"The seeds of a sweep must differ, but received {seeds}.")
    for teacher, student in pairs:
        folder = Path(directory) / f"{_name_of(teacher)}-{student}".replace("/", "_")
        for seed in seeds:
            common = {**(shared or {}), "seed": seed}
            runs.append(PlannedRun(folder / BASELINE / f"seed{seed}", student, common))
            for name, options in recipes.items():
                path, run_options = folder / name / f"seed{seed}", {**(shared or {}), **options, "seed": seed}
                if run_options.get("recording") is not None:
                    run_options["recording"] = _with_seed(run_options["recording"], seed)
                runs.append(PlannedRun(path, student, run_options, _with_seed(teacher, seed)))
    paths = [run.path for run in runs]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        expected = "pairs whose teachers and students have different names, because these name the directories"
        raise ValueError(explain_mismatch(expected, f"two runs {twice}", "compare these pairs in sweeps of their own"))
    return runs


def _with_seed(source: Any, seed: int) -> Any:
    """The paths of a teacher or a recording, one or several, with the seed of the run in the place of "{seed}"."""
    if isinstance(source, (list, tuple)):
        return [_with_seed(part, seed) for part in source]
    if isinstance(source, Path):
        return Path(_with_seed(str(source), seed))
    return source.replace("{seed}", str(seed)) if isinstance(source, str) else source


def _name_of(teacher: TeacherSource) -> str:
    """The name of a teacher in the names of directories."""
    if isinstance(teacher, (str, os.PathLike)):
        return Path(os.fspath(teacher).replace("/seed{seed}", "")).stem
    return getattr(teacher, "name", None) or type(teacher).__name__.lower()


def check_complete(runs: Sequence[PlannedRun]) -> None:
    """Checks that the complete runs of a plan, which are reused, have its settings.

    Damaged results are left to `finish`.

    Raises:
        ValueError: if one has other settings.
    """
    for planned in runs:
        if isinstance(_open_complete(planned), Run):
            with open(planned.log, "a") as log, _redirected(log):
                _start(planned)


def _open_complete(planned: PlannedRun) -> Run | str | None:
    """A complete run, or the error of its damaged result as text; `None` for a run that is not complete."""
    if not (planned.path / "result.json").exists():
        return None
    try:
        run = Run(planned.path)
        run.check_result()
    except ValueError as error:
        return str(error)
    return run


def _start(planned: PlannedRun) -> Run:
    """Trains, resumes or only returns a planned run."""
    if planned.teacher is None:
        return train(model=planned.student, run=planned.path, **planned.options)
    return distill(teacher=planned.teacher, student=planned.student, run=planned.path, **planned.options)


def finish(planned: PlannedRun) -> Run | str:
    """Trains or resumes a planned run unless it is complete; returns the run, or its error as text.

    The progress, and the traceback of an error, are appended to `planned.log`. The settings of a complete run are those
    of the plan, as `check_complete` has checked.
    """
    if (complete := _open_complete(planned)) is not None:
        return complete
    planned.path.parent.mkdir(parents=True, exist_ok=True)
    with open(planned.log, "a") as log, _redirected(log):
        try:
            return _start(planned)
        except Exception as error:  # of any type: the other runs of the plan do not depend on this one
            traceback.print_exc(file=log)
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        finally:
            keras.utils.clear_session()  # as in a process of its own, names start anew and memory is freed


@contextlib.contextmanager
def _redirected(log: Any) -> Iterator[None]:
    """Sends the output of a run to its log instead of the standard output."""
    handlers, level, propagate = LOGGER.handlers, LOGGER.level, LOGGER.propagate
    LOGGER.handlers, LOGGER.propagate = [logging.StreamHandler(log)], False
    LOGGER.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        LOGGER.handlers, LOGGER.propagate = handlers, propagate
        LOGGER.setLevel(level)


def finish_all(runs: Sequence[PlannedRun], shard: tuple[int, int] = (0, 1)) -> None:
    """Finishes the runs i, i + n, i + 2n, ... of a plan for `shard=(i, n)`, and logs a line for each.

    Raises:
        ValueError: if the shard is not (i, n) with 0 <= i < n, or as `check_complete`.
    """
    number, count = shard
    if not 0 <= number < count:
        raise ValueError(f"shard= must be (i, n) with 0 <= i < n, but received {shard}.")
    check_complete(runs)
    selected = runs[number::count]
    for position, planned in enumerate(selected, start=1):
        start = time.perf_counter()
        try:
            run = finish(planned)
        except SystemExit:  # on SIGTERM or SIGINT; the run's own message is in its log
            LOGGER.info("%d/%d %s: interrupted. The same command resumes.", position, len(selected), planned.path)
            raise
        if isinstance(run, Run):
            metric = run.result.get("metric", "accuracy")
            outcome = f"{metric} {run.result['last'].get(f'val_{metric}', float('nan')):.4f}"
        else:
            outcome = run
        seconds = time.perf_counter() - start
        LOGGER.info("%d/%d %s: %s (%.0f s)", position, len(selected), planned.path, outcome, seconds)
