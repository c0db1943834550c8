"""Runs of the programs of experiments/, each in a process of its own; a program returns a complete run at once."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kd_keras.runs import Run


class ProgramError(Exception):
    """A program failed; the message is the last line that it printed."""


def run_program(path: Path, program: str, *flags: str) -> None:
    """Runs a program, and appends what it prints to `<path>.log`.

    Raises:
        ProgramError: if the program fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_name(f"{path.name}.log")
    with open(log, "a") as output:
        command = [sys.executable, "-m", f"experiments.{program}", *flags]
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        lines = log.read_text().strip().splitlines()
        raise ProgramError(f"{path}: {lines[-1] if lines else f'exit code {code}'}")


def complete(path: Path, program: str, *flags: str, last: str = "") -> Run:
    """The run in a directory, started or resumed first if it is not complete.

    The program is also started for a complete run: it refuses one that was made with other flags.

    Args:
        path: the directory.
        program: a program of experiments/ that has the flag --run.
        *flags: its other flags.
        last: of a scheme, the directory of its last run in `path`.

    Raises:
        ProgramError: if the program fails.
    """
    run_program(path, program, *flags, f"--run={path}")
    return Run(path / last)


def data_flags(data_dir: str | None) -> list[str]:
    """The flag of the place where TFDS keeps prepared datasets, if one was given."""
    return [f"--data_dir={data_dir}"] if data_dir else []


def mean_and_spread(values: Sequence[float]) -> tuple[str, str]:
    """The mean and the standard deviation of accuracies in percent; "-" for the spread of a single one.

    >>> mean_and_spread([0.5, 0.52]), mean_and_spread([0.5])
    (('51.00', '1.41'), ('50.00', '-'))
    """
    spread = f"{100 * statistics.stdev(values):.2f}" if len(values) > 1 else "-"
    return f"{100 * statistics.mean(values):.2f}", spread
