"""Prints the zoo with the published counts of experiments/results/zoo_published.csv, as Markdown.

python -m scripts.reproduce.zoo_table
"""

import csv
import math
from pathlib import Path

import keras

from kd_keras import models
from kd_keras.evaluation import macs
from kd_keras.runs.parsing import parse_call

PUBLISHED = Path(__file__).parent.parent.parent / "experiments" / "results" / "zoo_published.csv"
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}


def read_published() -> list[dict[str, str]]:
    """The rows of the published counts."""
    with open(PUBLISHED, newline="") as lines:
        return list(csv.DictReader(lines))


def count(row: dict[str, str]) -> tuple[int, int]:
    """The trainable parameters and the multiply-accumulates of the model of a row."""
    _, options = parse_call(f"f({row['options']})")
    model = models.build(row["model"], (int(row["size"]), int(row["size"]), 3), int(row["classes"]), **options)
    counts = sum(math.prod(variable.shape) for variable in model.trainable_variables), macs(model)
    keras.backend.clear_session()
    return counts


def agrees(value: int, published: str) -> bool | None:
    """Whether a count is the published one, to the digits that were published; `None` if none was.

    >>> agrees(524_045_184, "524M"), agrees(40_476_448, "41M"), agrees(7, "")
    (True, False, None)
    """
    if not published:
        return None
    number, unit = (published[:-1], UNITS[published[-1]]) if published[-1] in UNITS else (published, 1)
    decimals = len(number.partition(".")[2])
    return round(value / unit, decimals) == float(number)


def main() -> None:
    print("| model | px | classes | parameters | published | multiply-accumulates | published | source | difference |")
    print("|---|---:|---:|---:|---:|---:|---:|---|---|")
    for row in read_published():
        parameters, operations = counts = count(row)
        equal = [agrees(*pair) for pair in zip(counts, (row["parameters"], row["macs"]), strict=True)]
        name = f"{row['model']}({row['options']})" if row["options"] else row["model"]
        note = row["note"] if False in equal else "none"
        cells = [
            name,
            row["size"],
            row["classes"],
            f"{parameters:,}",
            row["parameters"],
            f"{operations:,}",
            row["macs"],
        ]
        print("| " + " | ".join([*cells, row["source"], note]) + " |", flush=True)


if __name__ == "__main__":
    main()
