"""Runs of the programs of experiments/, each in a process of its own; complete runs are not run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kd_keras.runs import Run


class ProgramError(Exception):
    """A program failed; the message is the last line that it printed."""


def complete(path: Path, program: str, *flags: str) -> Run:
    """The run in a directory, started or resumed first if it is not complete.

    What the program prints is appended to `<path>.log`.

    Raises:
        ProgramError: if the program fails.
    """
    if not (path / "result.json").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.with_name(f"{path.name}.log")
        command = [sys.executable, "-m", f"experiments.{program}", *flags, f"--run={path}"]
        with open(log, "a") as output:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
        if code:
            lines = log.read_text().strip().splitlines()
            raise ProgramError(f"{path}: {lines[-1] if lines else f'exit code {code}'}")
    return Run(path)


def data_flags(data_dir: str | None) -> list[str]:
    """The flag of the place where TFDS keeps prepared datasets, if one was given."""
    return [f"--data_dir={data_dir}"] if data_dir else []
