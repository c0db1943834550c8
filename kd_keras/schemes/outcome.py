"""What a scheme returns: its runs in the order of their training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_keras.methods import Method
from kd_keras.runs import Run
from kd_keras.runs.methods import methods_setting
from kd_keras.runs.settings import GivenObject
from kd_keras.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class Outcome:
    """The complete runs of a scheme.

    Attributes:
        runs: in the order of their training; the last one is the student.
    """

    runs: tuple[Run, ...]

    @property
    def student(self) -> Run:
        """The last run."""
        return self.runs[-1]

    def lines(self) -> list[str]:
        """A line for each run: its directory, the number of its parameters and its accuracy on the test images."""
        return [_line(run) for run in self.runs]


def _line(run: Run) -> str:
    result = run.result
    metric = result.get("metric", "accuracy")
    value = result["last"].get(f"val_{metric}")
    tested = "not tested" if value is None else f"{metric} {value:.4f}, best {result[f'best_val_{metric}']:.4f}"
    return f"{run.path}: {result['parameters']:,} parameters, {tested}"


def run_path(directory: str | os.PathLike, number: int, network: str) -> Path:
    """The directory of a run of a scheme: `<directory>/<number>-<model>`.

    >>> str(run_path("runs/chain", 2, "applications/ResNet50(classifier_activation=None)"))
    'runs/chain/2-applications_ResNet50'
    """
    return Path(directory) / f"{number}-{network.partition('(')[0].strip().replace('/', '_')}"


def as_texts(methods: Sequence[str | Method]) -> list[str]:
    """Converts methods to texts, from which each run of a scheme creates its own methods.

    Raises:
        TypeError: if the methods are not a list.
        ValueError: if a method has no text, such as one with a schedule as its weight.

    >>> from kd_keras.methods import KD
    >>> as_texts([KD(temperature=2)])
    ['kd(temperature=2.0)']
    """
    if isinstance(methods, (str, Method)):
        raise TypeError(f"methods must be a list, but received {methods!r}. Write methods=[...] with brackets.")
    texts = []
    for setting in methods_setting(methods):
        if isinstance(setting, GivenObject):
            raise ValueError(
                "Expected methods that can be written as texts, because each run of a scheme needs its own, but "
                f"received {setting.description}. Pass a text such as 'kd(temperature=4)'."
            )
        texts.append(setting)
    return texts


def refuse(scheme: str, options: Iterable[str], refused: Iterable[str], reason: str) -> None:
    """Raises a ValueError if one of the refused options is among the options of a scheme."""
    names = [name for name in refused if name in options]
    if names:
        raise ValueError(f"{scheme} takes no {', '.join(names)}, because {reason}. Leave out {', '.join(names)}.")


def require_classification(scheme: str, task: Task) -> None:
    """Raises a ValueError if the images of a scheme that distills the logits of classifiers have other labels."""
    if task is not CLASSIFICATION:
        raise ValueError(
            f"{scheme} needs {CLASSIFICATION.label_text}, but received {task.label_text}. Pass other data, or use "
            "distill for this task."
        )
