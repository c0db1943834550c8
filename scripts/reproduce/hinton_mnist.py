"""Hinton, Vinyals and Dean 2015 (1503.02531), section 3, on MNIST: the test errors of every net beside the paper's.

    python -m scripts.reproduce.hinton_mnist --data_dir=... --runs=runs/mnist

For each seed: a large net, a small net trained without distillation, the small net distilled, and the small net
distilled from images without any 3. The bias of the last net's class 3 is then raised in two ways: to the fewest test
errors, as in the paper, and to the fewest errors on the first 10,000 training images, as a user could do it. Complete
runs are not run again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from kd_keras import data
from kd_keras.evaluation import Predictions, predict
from kd_keras.runs import Run
from scripts.reproduce.programs import complete, data_flags, run_program

CONFIGS = "experiments/configs/mnist"
OFFSETS = np.arange(-2, 12, 0.1)  # of the bias of class 3
ROWS = {
    "large": ("large net, jittered images, dropout and weight constraint", "67"),
    "baseline": ("small net, trained without distillation", "146"),
    "distilled": ("small net distilled at T = 20", "74"),
    "no3": ("the same without any 3 in the transfer set", "206"),
    "no3 threes": ("... of these errors, on the 1010 threes", "133"),
    "no3 raised": ("... with the bias of 3 raised to suit the test images", "109"),
    "no3 raised threes": ("... of these errors, on the threes", "14"),
    "no3 raise": ("... raised by", "3.5"),
    "no3 honest": ("... with the bias of 3 raised to suit 10,000 training images", "-"),
    "no3 honest raise": ("... raised by", "-"),
}


def complete_runs(options: argparse.Namespace, seed: int) -> dict[str, Run]:
    """The complete runs of one seed by name; the small nets are distilled from recorded outputs of the large net."""
    directory = Path(options.runs)
    shared = [f"--seed={seed}", *data_flags(options.data_dir), *options.flags]

    def run_once(name: str, program: str, *flags: str) -> Run:
        run = complete(directory / name / f"seed{seed}", program, *flags, *shared)
        accuracy, seconds = run.result["last"]["val_accuracy"], run.result["seconds"]
        print(f"{run.path}: {accuracy:.4f}, {seconds:.0f} s", file=sys.stderr)
        return run

    large = run_once("large", "train", f"--flagfile={CONFIGS}_large.flags")
    runs = {"large": large, "baseline": run_once("baseline", "train", f"--flagfile={CONFIGS}_small.flags")}
    for name, without in {"distilled": [], "no3": ["--without_classes=3"]}.items():
        recording = directory / f"recording_{name}" / f"seed{seed}"
        record = ["--data=mnist", f"--teacher={large.path}", "--views=1", "--batch_size=250"]
        run_program(recording, "record", *record, *without, *shared, f"--output={recording}")
        flags = [f"--flagfile={CONFIGS}_distilled.flags", f"--recording={recording}", *without]
        runs[name] = run_once(name, "distill", *flags)
    return runs


def count_errors(logits: np.ndarray, labels: np.ndarray, only: int | None = None) -> int:
    """The number of wrong predictions, of all images or of one class."""
    wrong = logits.argmax(-1) != labels
    return int(wrong.sum() if only is None else wrong[labels == only].sum())


def raise_bias(logits: np.ndarray, offset: float) -> np.ndarray:
    """The logits with the bias of class 3 raised."""
    return logits + offset * np.eye(logits.shape[-1], dtype="float32")[3]


def best_offset(predictions: Predictions) -> float:
    """The offset with the fewest errors; the median if there are several."""
    counts = [count_errors(raise_bias(predictions.logits, offset), predictions.labels) for offset in OFFSETS]
    return float(np.median(OFFSETS[np.array(counts) == min(counts)]))


def measure(runs: dict[str, Run], test: tf.data.Dataset, train: tf.data.Dataset) -> dict[str, float]:
    """The values of ROWS for one seed."""
    predictions = {name: predict(run.model(), test) for name, run in runs.items()}
    row: dict[str, float] = {name: count_errors(p.logits, p.labels) for name, p in predictions.items()}
    logits, labels = predictions["no3"].logits, predictions["no3"].labels
    offset = best_offset(predictions["no3"])
    honest = best_offset(predict(runs["no3"].model(), train))
    raised = raise_bias(logits, offset)
    return row | {
        "no3 threes": count_errors(logits, labels, 3),
        "no3 raise": offset,
        "no3 raised": count_errors(raised, labels),
        "no3 raised threes": count_errors(raised, labels, 3),
        "no3 honest raise": honest,
        "no3 honest": count_errors(raise_bias(logits, honest), labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--runs", default="runs/mnist", help="directory of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--flags", nargs="*", default=[], help="more flags for every run")
    options = parser.parse_args()
    test = data.evaluation(data.load("mnist", "test", options.data_dir), batch_size=500)
    train = data.evaluation(data.load("mnist", "train[:10000]", options.data_dir), batch_size=500)
    by_seed = [measure(complete_runs(options, seed), test, train) for seed in range(options.seeds)]
    print("| test errors of 10,000 | paper | mean | spread | by seed |\n|---|---:|---:|---:|---|")
    for name, (text, paper) in ROWS.items():
        values = [row[name] for row in by_seed]
        spread = f"{statistics.stdev(values):.1f}" if values[1:] else "-"
        listed = " ".join(f"{value:g}" if isinstance(value, int) else f"{value:.1f}" for value in values)
        print(f"| {text} | {paper} | {statistics.mean(values):.1f} | {spread} | {listed} |")


if __name__ == "__main__":
    main()
