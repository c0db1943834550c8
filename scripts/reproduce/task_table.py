"""The table of a task: a teacher, and for each seed the student trained without it and taught in several ways.

Each training is a process of its own; complete runs are not run again. The networks are compared on the test images by
one evaluation for each seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_keras.runs import Run, evaluate
from scripts.reproduce.programs import complete, data_flags


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is trained and measured.

    Attributes:
        config: the file of flags that all trainings share.
        teacher, student: the networks.
        recipes: the methods of each way to teach the student, by its name.
        columns: the findings of the table; the first one has a spread.
        test: the images of the evaluation, as `kd.evaluate` takes them.
        hard_weight: of the taught students.
    """

    config: str
    teacher: str
    student: str
    recipes: Mapping[str, Sequence[str]]
    columns: Sequence[str]
    test: Mapping[str, Any]
    hard_weight: float = 1.0


def print_table(description: str, comparison: Comparison, runs: str, seeds: Sequence[int]) -> None:
    """Trains what is missing, and prints the table as Markdown.

    The command line may change the directory, the seeds and the student; another student needs a directory of its own.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=runs, help="directory of the runs")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--student", default=comparison.student, help="the network to teach")
    parser.add_argument("flags", nargs="*", help="further flags of all programs")
    options = parser.parse_args()
    comparison = dataclasses.replace(comparison, student=options.student)
    flags = [f"--flagfile={comparison.config}", *data_flags(options.data_dir), *options.flags]
    directory = Path(options.runs)
    teacher = complete(directory / "teacher", "train", *flags, "--seed=0", f"--model={comparison.teacher}")
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        students = _students(comparison, teacher, directory / f"seed{seed}", [*flags, f"--seed={seed}"])
        test = {**comparison.test, "data_dir": options.data_dir}
        findings = evaluate(list(students.values()), teacher=teacher, **test).findings
        for name, values in zip(["teacher", *students], findings.values(), strict=True):
            results.setdefault(name, []).append(values)
    names = ["", comparison.columns[0], "spread", *comparison.columns[1:], "each seed", "parameters", "ms"]
    print("| " + " | ".join(names) + " |\n|---|" + "---:|" * (len(names) - 1))
    for name, values in results.items():
        print(_row(name, values, comparison.columns))


def _students(comparison: Comparison, teacher: Run, directory: Path, flags: list[str]) -> dict[str, Run]:
    """The complete runs of a seed, by name."""
    runs = {"baseline": complete(directory / "baseline", "train", *flags, f"--model={comparison.student}")}
    taught = [f"--teacher={teacher.path}", f"--student={comparison.student}", f"--hard_weight={comparison.hard_weight}"]
    for name, methods in comparison.recipes.items():
        chosen = [f"--method={method}" for method in methods]
        runs[name] = complete(directory / name.partition(" ")[0], "distill", *flags, *taught, *chosen)
    return runs


def _row(name: str, results: list[dict[str, Any]], columns: Sequence[str]) -> str:
    """The mean of the seeds, and the standard deviation of the first column."""
    means = [f"{statistics.mean(float(result[column]) for result in results):.3f}" for column in columns]
    values = [float(result[columns[0]]) for result in results]
    spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-"
    seeds = " ".join(f"{value:.3f}" for value in values)
    cost = [f"{results[0]['parameters']:,}", f"{statistics.mean(r['milliseconds'] for r in results):.1f}"]
    return "| " + " | ".join([name, means[0], spread, *means[1:], seeds, *cost]) + " |"
