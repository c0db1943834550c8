"""Prints the zoo beside the counts in print, from experiments/results/zoo_published.csv, as Markdown.

python -m scripts.reproduce.zoo_table
"""

import csv
import math
from pathlib import Path

import keras

from experiments.arguments import parse_call
from kd_keras import models
from kd_keras.evaluation import macs

PUBLISHED = Path(__file__).parent.parent.parent / "experiments" / "results" / "zoo_published.csv"
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}


def rows() -> list[dict[str, str]]:
    """The published counts, one a row."""
    with open(PUBLISHED, newline="") as lines:
        return list(csv.DictReader(lines))


def counted(row: dict[str, str]) -> tuple[int, int]:
    """The trainable parameters and the multiply-accumulates of a row's model."""
    _, options = parse_call(f"f({row['options']})")
    model = models.build(row["model"], (int(row["size"]), int(row["size"]), 3), int(row["classes"]), **options)
    found = sum(math.prod(variable.shape) for variable in model.trainable_variables), macs(model)
    keras.backend.clear_session()
    return found


def agrees(ours: int, published: str) -> bool | None:
    """Whether a count is the published one to the digits that are printed; `None` where none is.

    >>> agrees(524_045_184, "524M"), agrees(40_476_448, "41M"), agrees(7, "")
    (True, False, None)
    """
    if not published:
        return None
    number, unit = (published[:-1], UNITS[published[-1]]) if published[-1] in UNITS else (published, 1)
    decimals = len(number.partition(".")[2])
    return round(ours / unit, decimals) == float(number)


def main() -> None:
    print("| model | px | classes | parameters | published | multiply-accumulates | published | source | difference |")
    print("|---|---:|---:|---:|---:|---:|---:|---|---|")
    for row in rows():
        ours = counted(row)
        equal = [agrees(*pair) for pair in zip(ours, (row["parameters"], row["macs"]), strict=True)]
        name = f"{row['model']}({row['options']})" if row["options"] else row["model"]
        note = row["note"] if False in equal else "none"
        cells = [name, row["size"], row["classes"], f"{ours[0]:,}", row["parameters"], f"{ours[1]:,}", row["macs"]]
        print("| " + " | ".join([*cells, row["source"], note]) + " |", flush=True)


if __name__ == "__main__":
    main()
