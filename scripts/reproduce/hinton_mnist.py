"""Hinton, Vinyals and Dean 2015 (1503.02531), section 3, on MNIST: test errors of every net beside the paper's.

    python -m scripts.reproduce.hinton_mnist --data_dir=... --runs=runs/mnist

For each seed a large net, a small one alone, the small one distilled, and the small one distilled from images without
any 3. The bias of the last one's class 3 is then raised in two ways: so that the test errors are fewest, which is what
the paper does, and so that those of the first 10,000 training images are, which a user could do. Finished runs are not
run again.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from experiments.runs import load_model
from experiments.sweeps import Planned, finish
from kd_keras import data
from kd_keras.evaluation import Predictions, predict

CONFIGS = "experiments/configs/mnist"
OFFSETS = np.arange(-2, 12, 0.1)  # of the bias of class 3
ROWS = {
    "large": ("large net, jittered images, dropout and weight constraint", "67"),
    "alone": ("small net alone", "146"),
    "distilled": ("small net distilled at T = 20", "74"),
    "no3": ("the same without any 3 in the transfer set", "206"),
    "no3 threes": ("... of these errors, on the 1010 threes", "133"),
    "no3 raised": ("... with the bias of 3 raised to suit the test images", "109"),
    "no3 raised threes": ("... of these errors, on the threes", "14"),
    "no3 raise": ("... raised by", "3.5"),
    "no3 honest": ("... with the bias of 3 raised to suit 10,000 training images", "-"),
    "no3 honest raise": ("... raised by", "-"),
}


def runs(asked: argparse.Namespace, seed: int) -> dict[str, Path]:
    """The finished runs of one seed by name."""
    place = Path(asked.runs)
    shared = (f"--seed={seed}", *([f"--data_dir={asked.data_dir}"] if asked.data_dir else []), *asked.flags)
    taught = (f"--flagfile={CONFIGS}_distilled.flags", f"--teacher={place / 'large' / f'seed{seed}'}", *shared)
    plans = {
        "large": ("train", (f"--flagfile={CONFIGS}_large.flags", *shared)),
        "alone": ("train", (f"--flagfile={CONFIGS}_small.flags", *shared)),
        "distilled": ("distill", taught),
        "no3": ("distill", (*taught, "--without_classes=3")),
    }
    found = {}
    for name, (program, given) in plans.items():
        found[name] = place / name / f"seed{seed}"
        result = finish(Planned(found[name], program, given))
        if isinstance(result, str):
            sys.exit(f"{found[name]}: {result}")
        print(f"{found[name]}: {result['last']['val_accuracy']:.4f}, {result['seconds']:.0f} s", file=sys.stderr)
    return found


def errors(logits: np.ndarray, labels: np.ndarray, only: int | None = None) -> int:
    """How many are wrong, of all or of one class."""
    wrong = logits.argmax(-1) != labels
    return int(wrong.sum() if only is None else wrong[labels == only].sum())


def raised(logits: np.ndarray, offset: float) -> np.ndarray:
    """The logits with the bias of class 3 raised."""
    return logits + offset * np.eye(logits.shape[-1], dtype="float32")[3]


def best_offset(known: Predictions) -> float:
    """The offset with the fewest errors; of several the one in the middle."""
    counts = np.array([errors(raised(known.logits, offset), known.labels) for offset in OFFSETS])
    return float(np.median(OFFSETS[counts == counts.min()]))


def measured(found: dict[str, Path], test: tf.data.Dataset, train: tf.data.Dataset) -> dict[str, float]:
    """The values of ROWS for one seed."""
    said = {name: predict(load_model(str(run)), test) for name, run in found.items()}
    row = {name: errors(*each) for name, each in said.items()}
    no3, labels = said["no3"]
    offset = best_offset(said["no3"])
    honest = best_offset(predict(load_model(str(found["no3"])), train))
    row |= {"no3 threes": errors(no3, labels, 3), "no3 raise": offset, "no3 honest raise": honest}
    row |= {"no3 raised": errors(raised(no3, offset), labels), "no3 honest": errors(raised(no3, honest), labels)}
    return row | {"no3 raised threes": errors(raised(no3, offset), labels, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--runs", default="runs/mnist", help="where the runs stand")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--flags", nargs="*", default=[], help="flags of every run, beside the flagfiles'")
    asked = parser.parse_args()
    test = data.evaluation(data.load("mnist", "test", asked.data_dir), batch_size=500)
    train = data.evaluation(data.load("mnist", "train[:10000]", asked.data_dir), batch_size=500)
    seeds = [measured(runs(asked, seed), test, train) for seed in range(asked.seeds)]
    print("| test errors of 10,000 | paper | mean | spread | each seed |\n|---|---:|---:|---:|---|")
    for name, (text, paper) in ROWS.items():
        values = [seed[name] for seed in seeds]
        spread = f"{statistics.stdev(values):.1f}" if values[1:] else "-"
        each = " ".join(f"{value:g}" if isinstance(value, int) else f"{value:.1f}" for value in values)
        print(f"| {text} | {paper} | {statistics.mean(values):.1f} | {spread} | {each} |")


if __name__ == "__main__":
    main()
