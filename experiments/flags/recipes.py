"""Parses the flags of a sweep, 'NAME: FLAGS', TEACHER:STUDENT and i/n, into the arguments of `kd_keras.compare`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.flags.teacher import parse_numbers
from kd_keras.errors import suggest
from kd_keras.runs.parsing import parse_weight
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.settings import from_lines

TEXTS = ("weights", "recording", "teacher_precision", "combine")
PAIRS = ("teacher_weights", "teacher_range")
OF_DISTILL = (*TEXTS, *PAIRS, "method", "hard_weight")


def flag_options(lines: Iterable[str]) -> dict[str, Any]:
    """Converts flags of experiments.distill to options of `kd_keras.distill`.

    Args:
        lines: `--name=value`, `--name` or `--noname`; a `--flagfile=PATH` is replaced by its lines.

    Raises:
        ValueError: if a line is not such a flag, or its value is invalid.

    >>> flag_options(["--method=kd", "--method=at", "--hard_weight=0.1", "--epochs=3", "--flip"])
    {'epochs': 3, 'flip': True, 'methods': ['kd', 'at'], 'hard_weight': 0.1}
    """
    expanded: list[str] = []
    for line in lines:
        if line.startswith("--flagfile="):
            expanded += _read(line.partition("=")[2])
        elif line.startswith("--"):
            expanded.append(line)
        else:
            raise ValueError(f"Expected a flag --name=value, but received {line!r}. Write two dashes before its name.")
    settings = from_lines(expanded)
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in settings:
        if name not in (*known, *OF_DISTILL):
            raise ValueError(f"--{name} is not a flag of a recipe: {suggest(name, (*known, *OF_DISTILL))}")
    recipe = Recipe.from_settings(settings)
    options = {name: value for name, value in vars(recipe).items() if name in settings}
    options |= {name: settings[name] for name in TEXTS if name in settings}
    options |= {name: parse_numbers(name, str(settings[name])) for name in PAIRS if name in settings}
    if "method" in settings:
        methods = settings["method"]
        options["methods"] = methods if isinstance(methods, list) else [methods]
    if "hard_weight" in settings:
        options["hard_weight"] = parse_weight(str(settings["hard_weight"]), "--hard_weight")
    return options


def _read(path: str) -> list[str]:
    lines = [line.strip() for line in Path(path).read_text().splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def parse_recipes(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parses recipes such as "kd: --method='kd(temperature=4)' --hard_weight=0.1"; returns their options by name.

    Raises:
        ValueError: if a text has another form, or if two have the same name.

    >>> parse_recipes(["at: --method=at"])
    {'at': {'methods': ['at']}}
    """
    recipes: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, _, flags = (part.strip() for part in text.partition(":"))
        if not (name and flags) or name in recipes:
            reason = "the name is used twice" if name in recipes else "a part is missing"
            raise ValueError(f"--recipe must be 'NAME: FLAGS' with different names, but received {text!r}: {reason}.")
        recipes[name] = flag_options(shlex.split(flags))
    return recipes


def parse_pair(text: str) -> tuple[str, str]:
    """Parses a pair of a sweep.

    Raises:
        ValueError: if the text is not TEACHER:STUDENT.

    >>> parse_pair("runs/resnet20:resnet8")
    ('runs/resnet20', 'resnet8')
    """
    teacher, _, student = text.partition(":")
    if not (teacher and student):
        raise ValueError(f"--pair must be TEACHER:STUDENT, but received {text!r}.")
    return teacher, student


def parse_shard(text: str) -> tuple[int, int]:
    """Parses the shard of a worker.

    Raises:
        ValueError: if the text is not i/n with 0 <= i < n.

    >>> parse_shard("0/4")
    (0, 4)
    """
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise ValueError(f"--shard must be i/n with i from 0 and below n, such as 0/4, but received {text!r}.")
    return int(number), int(count)
