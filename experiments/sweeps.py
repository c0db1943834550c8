"""Many runs of one plan, a process each: what is finished is not run again, one that fails does not end the rest."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kd_keras.errors import explain_mismatch

ALONE = "alone"


class Planned(NamedTuple):
    """One run: where it stands, and the program and flags that make it."""

    path: Path
    program: str
    flags: tuple[str, ...]


def plan(
    place: str, pairs: Sequence[str], recipes: Sequence[str], seeds: Iterable[int], shared: Sequence[str]
) -> list[Planned]:
    """Every recipe for every pair and seed, the student alone among them.

    Args:
        place: the directory of all runs; a run is `<place>/<teacher>-<student>/<recipe>/seed<n>`.
        pairs: `TEACHER:STUDENT`, a run or a model file and a model of the zoo; `{seed}` in it is the run's seed.
        recipes: `NAME: FLAGS`, what `experiments.distill` is told beside.
        seeds: of the runs.
        shared: flags of every run.

    Raises:
        ValueError: for a pair or a recipe of another form, or two recipes of one name.

    >>> runs = plan("runs", ["teacher:resnet8"], ["kd: --method=kd --hard_weight=0.1"], [0], ["--epochs=3"])
    >>> [str(each.path) for each in runs]
    ['runs/teacher-resnet8/alone/seed0', 'runs/teacher-resnet8/kd/seed0']
    >>> runs[1].flags[:3]
    ('--student=resnet8', '--teacher=teacher', '--method=kd')
    """
    split = [tuple(part.strip() for part in each.partition(":")[::2]) for each in recipes]
    names = [ALONE, *(name for name, _ in split)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not all(name and given for name, given in split):
        came = f"{', '.join(twice)} twice" if twice else str(list(recipes))
        raise ValueError(explain_mismatch(f"--recipe='NAME: FLAGS' of different names, none of them {ALONE!r}", came))
    found = []
    for pair in pairs:
        teacher, colon, student = pair.partition(":")
        if not (teacher and colon and student):
            raise ValueError(explain_mismatch("--pair=TEACHER:STUDENT", repr(pair)))
        folder = Path(place) / f"{Path(teacher.replace('/seed{seed}', '')).stem}-{student}".replace("/", "_")
        for seed in seeds:
            whole = [*shared, f"--seed={seed}"]
            found.append(Planned(folder / ALONE / f"seed{seed}", "train", (f"--model={student}", *whole)))
            for name, given in split:
                own = [f"--student={student}", f"--teacher={teacher.replace('{seed}', str(seed))}", *shlex.split(given)]
                found.append(Planned(folder / name / f"seed{seed}", "distill", (*own, *whole)))
    return found


def finish(planned: Planned) -> dict[str, Any] | str:
    """The result of a run, made or gone on with where it is not finished; or its error in one line.

    What the program prints goes to `<run>.log` beside it.
    """
    result = planned.path / "result.json"
    if not result.exists():
        planned.path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", f"experiments.{planned.program}", *planned.flags, f"--run={planned.path}"]
        log = planned.path.with_name(f"{planned.path.name}.log")
        with open(log, "a") as lines:
            code = subprocess.run(command, stdout=lines, stderr=subprocess.STDOUT).returncode
        if code or not result.exists():
            return said_last(log.read_text()) or f"exit code {code}"
    return json.loads(result.read_text())


def said_last(log: str) -> str:
    """The error at the end of a log, without where it was raised, in one line.

    >>> said_last("Training.\\nTraceback (most recent call last):\\n  File ...\\nValueError: Needed: x\\nCame: y\\n")
    'ValueError: Needed: x Came: y'
    """
    _, _, last = log.rpartition("Traceback (most recent call last):")
    lines = [line.strip() for line in last.splitlines() if line.strip() and not line.startswith(" ")]
    return " ".join(lines if "Traceback" in log else lines[-1:])


def finish_all(runs: Sequence[Planned], part: tuple[int, int] = (0, 1)) -> None:
    """Finishes every run that falls to this worker, one after the other, with a line for each."""
    place, workers = part
    for number, planned in enumerate(runs[place::workers], start=1):
        begun = time.perf_counter()
        result = finish(planned)
        said = result if isinstance(result, str) else f"accuracy {result['last'].get('val_accuracy', float('nan')):.4f}"
        of = len(runs[place::workers])
        print(f"{number}/{of} {planned.path}: {said} ({time.perf_counter() - begun:.0f} s)", flush=True)
