"""Trains a resnet8 plainly, and with a classifier at each stage by itself and by a teacher, with three seeds, and
prints the accuracy of every exit and of their sum as Markdown.

    python -m scripts.reproduce.exits_cifar10 --teacher=runs/resnet20 --runs=runs/exits --data_dir=...

A finished run is not run again.
"""

import argparse
import statistics
import sys
from pathlib import Path

from experiments.runs import load_model, load_result
from experiments.sweeps import Planned, finish
from kd_keras import Teacher, data, models
from kd_keras.evaluation import accuracy, predict

BUDGET = "experiments/configs/cifar10_exits.flags"
SEEDS = range(3)


def trained(place: Path, program: str, *given: str) -> Path:
    """The run of a program, from now or from before."""
    result = finish(Planned(place, program, (f"--flagfile={BUDGET}", *given)))
    if isinstance(result, str):
        sys.exit(f"{place}: {result}")
    return place


def accuracies(run: Path, data_dir: str | None) -> dict[str, float]:
    """The accuracy of a run's network, or of each of its exits and of their sum, in percent."""
    model, record = load_model(str(run)), load_result(str(run))["data"]
    normalise = data.Normalisation(tuple(record["mean"]), tuple(record["std"]))
    test = data.evaluation(data.load("cifar10", "test", data_dir), batch_size=256, normalisation=normalise)
    networks = {"the whole": model}
    if model.name.startswith("multi_exit"):
        singles = range(1, models.exit_count(model) + 1)
        networks = {f"exit {number}": models.single_exit(model, number) for number in singles} | {"their sum": model}
    return {name: 100 * dict(accuracy(predict(Teacher(net), test)))["accuracy"] for name, net in networks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="a finished run")
    parser.add_argument("--runs", default="runs/exits", help="where the runs stand")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    asked = parser.parse_args()
    where = [f"--data_dir={asked.data_dir}"] if asked.data_dir else []
    student = ["--student=multi_exit/resnet8", "--hard_weight=0"]
    ways = {
        "plainly": ("train", ["--model=resnet8"]),
        "by itself": ("distill", [*student, "--method=byot"]),
        "by resnet20": ("distill", [*student, "--method=byot(from_teacher=True)", f"--teacher={asked.teacher}"]),
    }
    print("| trained | prediction | mean, % | spread | seeds 0, 1, 2 |\n|---|---|---:|---:|---|")
    for way, (program, given) in ways.items():
        places = [Path(asked.runs) / f"{way.replace(' ', '_')}{seed}" for seed in SEEDS]
        runs = [
            trained(place, program, *given, *where, f"--seed={seed}") for seed, place in zip(SEEDS, places, strict=True)
        ]
        found = [accuracies(run, asked.data_dir) for run in runs]
        for name in found[0]:
            each = [one[name] for one in found]
            mean, spread, listed = statistics.mean(each), statistics.stdev(each), " ".join(f"{one:.2f}" for one in each)
            print(f"| {way} | {name} | {mean:.2f} | {spread:.2f} | {listed} |", flush=True)


if __name__ == "__main__":
    main()
