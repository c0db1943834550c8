"""Converts the settings of a run to the lines of its flagfile `flags.txt`, and back.

A boolean is `--flip` or `--noflip`, a tuple `--image_size=32,32`, and a list one line for each of its items (a repeated
flag). A value that cannot be written as a flag, such as a Keras model passed from Python, is a `GivenObject` and
becomes a comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GivenObject:
    """A Python object among the settings.

    Args:
        description: the same text for the same object in every process, because it is compared when a run resumes.
    """

    description: str


@dataclass(frozen=True)
class Settings:
    """The settings of a run by the names of their flags.

    Args:
        values: the settings; `None` means that the flag is not set.
        defaults: the values that the flags have if they are not set.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def lines(self) -> list[str]:
        """The lines of a flagfile that repeats the run, sorted by the names of the flags."""
        return [line for name in sorted(self.values) for line in to_lines(name, self.values[name])]

    def differences(self, recorded: Iterable[str]) -> list[str]:
        """Lists the differences from recorded lines; the list is empty if a run with these settings may resume.

        A flag that is missing from the recorded lines and has its default value now is not a difference, because the
        run may be older than the flag.

        >>> Settings({"flip": True, "crop": 0}, {"crop": 0}).differences(["--noflip"])
        ['--noflip (before)', '--flip (now)']
        """
        before = list(recorded)
        known = {_name(line) for line in before}
        now = []
        for name in sorted(self.values):
            lines = to_lines(name, self.values[name])
            if name in known or lines != to_lines(name, self.defaults.get(name)):
                now += lines
        if now == before:
            return []
        changed = [f"{line} (before)" for line in before if before.count(line) != now.count(line)]
        changed += [f"{line} (now)" for line in now if before.count(line) != now.count(line)]
        return changed or ["the same flags in another order"]


def to_lines(name: str, value: Any) -> list[str]:
    """One setting as lines of a flagfile.

    >>> to_lines("image_size", (32, 32)), to_lines("flip", False), to_lines("method", ["kd", "at"])
    (['--image_size=32,32'], ['--noflip'], ['--method=kd', '--method=at'])
    """
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no{name}"]
    if isinstance(value, GivenObject):
        return [f"# --{name} is not a flag of this run: {value.description}, given from Python"]
    if isinstance(value, list):
        return [line for item in value for line in to_lines(name, item)]
    if isinstance(value, tuple):
        return [f"--{name}={','.join(map(str, value))}"]
    return [f"--{name}={value}"]


def from_lines(lines: Iterable[str]) -> dict[str, str | list[str]]:
    """The settings of a flagfile by name; "true" and "false" for a boolean, a list for a flag that is repeated.

    >>> from_lines(["# a comment", "--noflip", "--method=kd", "--method=at", "--image_size=32,32"])
    {'flip': 'false', 'method': ['kd', 'at'], 'image_size': '32,32'}
    """
    settings: dict[str, str | list[str]] = {}
    for line in lines:
        if not line.startswith("--"):
            continue
        name, equals, value = line.removeprefix("--").partition("=")
        if not equals:
            name, value = (name.removeprefix("no"), "false") if name.startswith("no") else (name, "true")
        earlier = settings.get(name)
        if earlier is None:
            settings[name] = value
        else:
            settings[name] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
    return settings


def given_objects(lines: Iterable[str]) -> dict[str, list[str]]:
    """The flags whose values were Python objects, with their descriptions, from the comments of a flagfile.

    >>> given_objects(["# --test_data is not a flag of this run: a Source, given from Python", "--noflip"])
    {'test_data': ['a Source']}
    """
    descriptions: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("# --"):
            description = line.partition(": ")[2].removesuffix(", given from Python")
            descriptions.setdefault(_name(line), []).append(description)
    return descriptions


def _name(line: str) -> str:
    """The name of the flag that a line sets or, if the line is a comment, mentions."""
    text = line.removeprefix("# ").split(" ")[0].removeprefix("--")
    name, equals, _ = text.partition("=")
    return name if equals or line.startswith("#") else name.removeprefix("no")
