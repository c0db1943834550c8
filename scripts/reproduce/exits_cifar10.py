"""Trains a resnet8 without exits, with exits by self-distillation, and with exits by a teacher, three seeds each.

    python -m scripts.reproduce.exits_cifar10 --teacher=runs/resnet20 --runs=runs/exits --data_dir=...

It prints the accuracy of every exit and of their mean as Markdown. A complete run is not run again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import tensorflow as tf

from kd_keras import data, models
from kd_keras.evaluation import accuracy, predict
from kd_keras.runs import Run
from scripts.reproduce.programs import complete, data_flags

BUDGET = "--flagfile=experiments/configs/cifar10_exits.flags"
SEEDS = range(3)


def accuracies(run: Run, test: tf.data.Dataset) -> dict[str, float]:
    """The accuracy of a run's network, or of each of its exits and of their mean, in percent."""
    model = run.model()
    networks = {"the network": model}
    if model.name.startswith("multi_exit"):
        numbers = range(1, models.exit_count(model) + 1)
        networks = {f"exit {number}": models.single_exit(model, number) for number in numbers} | {
            "mean of exits": model
        }
    return {name: 100 * dict(accuracy(predict(network, test)))["accuracy"] for name, network in networks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="a finished run")
    parser.add_argument("--runs", default="runs/exits", help="directory of the runs")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    options = parser.parse_args()
    student = ["--student=multi_exit/resnet8", "--hard_weight=0"]
    trainings = {
        "without exits": ("train", ["--model=resnet8"]),
        "by itself": ("distill", [*student, "--method=byot"]),
        "by resnet20": ("distill", [*student, "--method=byot(from_teacher=True)", f"--teacher={options.teacher}"]),
    }
    test = data.evaluation(data.load("cifar10", "test", options.data_dir), batch_size=256)
    print("| trained | prediction | mean, % | spread | seeds 0, 1, 2 |\n|---|---|---:|---:|---|")
    for name, (program, flags) in trainings.items():
        paths = [Path(options.runs) / f"{name.replace(' ', '_')}{seed}" for seed in SEEDS]
        shared = [BUDGET, *flags, *data_flags(options.data_dir)]
        runs = [complete(path, program, *shared, f"--seed={seed}") for seed, path in zip(SEEDS, paths, strict=True)]
        by_seed = [accuracies(run, test) for run in runs]
        for prediction in by_seed[0]:
            values = [row[prediction] for row in by_seed]
            mean, spread = statistics.mean(values), statistics.stdev(values)
            print(f"| {name} | {prediction} | {mean:.2f} | {spread:.2f} |", *(f"{value:.2f}" for value in values), "|")


if __name__ == "__main__":
    main()
