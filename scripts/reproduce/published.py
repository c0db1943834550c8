"""Prints the runs of the published CIFAR-100 recipes beside the published accuracies, as Markdown.

    python -m scripts.reproduce.published --runs=runs/cifar100

The runs are those of experiments/configs/published/README.md: `<model>/<seed>` without a teacher and
`<teacher>_<student>/<method>/<seed>` with one. Runs that are not complete are left out.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path

from kd_keras.runs import Run

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = ROOT / "experiments" / "results" / "published_cifar100.csv"
PAIRS = ROOT / "experiments" / "configs" / "published"
HEAD = "| pair | recipe | seeds | last epoch | spread | published | source |\n|---|---|---:|---:|---:|---:|---|"


def split_pair(pair: str) -> tuple[str, str]:
    """The teacher and the student of a pair, from its flagfile.

    >>> split_pair("resnet32x4_resnet8x4")
    ('resnet32x4', 'resnet8x4')
    """
    lines = (PAIRS / f"{pair}.flags").read_text().splitlines()
    teacher, student = (
        next(line.partition("=")[2] for line in lines if line.startswith(name)) for name in ("--teacher", "--student")
    )
    return teacher.split("/")[2], student


def accuracies(directory: Path) -> list[float]:
    """The accuracy after the last epoch of every complete run in a directory, in percent."""
    runs = [Run(path.parent) for path in sorted(directory.glob("*/result.json"))]
    return [100 * run.result["last"]["val_accuracy"] for run in runs if run.is_complete]


def method_of(recipe: str) -> str:
    """The method whose published number on CIFAR-100 belongs to a recipe; a recipe of ImageNet has none.

    >>> method_of("dkd_beta8"), method_of("dist_imagenet")
    ('dkd', '')
    """
    method, *setting = recipe.split("_")
    return "" if "imagenet" in setting else method


def row(pair: str, recipe: str, directory: Path, published: dict[tuple[str, str], tuple[str, str]]) -> str:
    """A row of the table, empty if there is no complete run."""
    values = accuracies(directory)
    if not values:
        return ""
    spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
    accuracy, source = published.get((pair, method_of(recipe)), ("", ""))
    return f"| {pair} | {recipe} | {len(values)} | {statistics.mean(values):.2f} | {spread} | {accuracy} | {source} |"


def table(runs: Path) -> str:
    """The rows of all pairs: the teacher, the baseline, then every method."""
    with open(PUBLISHED, newline="") as lines:
        entries = list(csv.DictReader(lines))
    published = {(entry["pair"], entry["method"]): (entry["accuracy"], entry["source"]) for entry in entries}
    rows = []
    for pair in dict.fromkeys(entry["pair"] for entry in entries):
        teacher, student = split_pair(pair)
        rows += [row(pair, "teacher", runs / teacher, published), row(pair, "alone", runs / student, published)]
        rows += [row(pair, path.name, path, published) for path in sorted((runs / pair).glob("*/"))]
    return "\n".join([HEAD, *filter(None, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs/cifar100", help="the directory of the runs")
    print(table(Path(parser.parse_args().runs)))


if __name__ == "__main__":
    main()
