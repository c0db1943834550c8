"""Distills a resnet8 with every method of classifiers, all with one short budget, and prints the results as Markdown.

    python -m scripts.reproduce.methods_cifar10 --teacher=runs/resnet20 --runs=runs/methods --data_dir=...

Each run is `python -m experiments.distill` with the method's defaults and its published hard weight. A complete run
is not run again, and a run that fails does not end the rest. The baseline has three seeds, to show how far two runs
of one recipe are apart.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from kd_keras.methods import Method
from kd_keras.methods.listing import list_kinds
from scripts.reproduce.programs import ProgramError, complete, data_flags

BUDGET = "--flagfile=experiments/configs/cifar10_methods.flags"
# Methods whose defaults cannot work in a run of three epochs: the method and the hard weight instead.
SETTINGS = {
    "ab": ("ab(weight={0: 1, 1: 0})", "{0: 0, 1: 1}"),  # two stages, as published: one epoch, then only the labels
    "fsp": ("fsp(weight={0: 1, 1: 0})", "{0: 0, 1: 1}"),
    "dkd": ("dkd(warmup_epochs=1)", "1"),
    "reviewkd": ("reviewkd(warmup_epochs=1)", "1"),
    "ctkd": ("ctkd(ramp_epochs=1)", "0.1"),
    "crd": ("crd(negatives=4096)", "1"),
    "queue": ("queue(size=2048)", "1"),  # these three were published for images without labels; without a hard loss
    "dense": ("dense", "1"),  # nothing would train the student's classifier
    "tokens": ("tokens", "1"),
    "cckernel": ("cckernel", "1"),  # published with KD only
}
# They need boxes, masks, identities, peers, or a network with a token.
FOR_OTHER_NETWORKS = (
    "bckd", "crosskd", "fgd", "ld", "cirkd", "ifvd", "skd", "adadistill", "angular", "ekd", "embedding", "proxylesskd",
    "deit", "dml",
)  # fmt: skip


def method_classes() -> list[type[Method]]:
    """The methods that train a student, by family and name."""
    return [kind for kind in list_kinds() if kind.trains_student]


def describe_gain(accuracy: float, mean: float, spread: float) -> str:
    """The gain over the baseline in points, and whether it is within two spreads of the baseline.

    >>> describe_gain(39.0, 38.0, 0.6)
    '+1.00, gains, within two spreads'
    """
    text = f"{accuracy - mean:+.2f}, {'loses' if accuracy < mean else 'gains'}"
    return text + (", within two spreads" if abs(accuracy - mean) < 2 * spread else "")


def print_baseline(results: list[dict[str, Any]]) -> tuple[float, float]:
    """Prints the row of the baseline; returns the mean and the spread of its accuracy in percent."""
    accuracies = [100 * result["last"]["val_accuracy"] for result in results]
    mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
    listed = " ".join(f"{accuracy:.2f}" for accuracy in accuracies)
    row = f"| baseline, seeds 0 to 2 | 1 | {mean:.2f} ({spread:.2f}) | {listed} | {results[0]['seconds']:.0f} |"
    print(row, flush=True)
    return mean, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="a finished run")
    parser.add_argument("--runs", default="runs/methods", help="directory of the runs")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--only", nargs="*", help="methods to run, by name; all by default")
    options = parser.parse_args()
    directory, shared = Path(options.runs), [BUDGET, *data_flags(options.data_dir)]
    print("| method | hard weight | accuracy, % | gain over the baseline | seconds |\n|---|---|---:|---|---:|")
    baseline = [
        complete(directory / f"baseline{seed}", "train", *shared, "--model=resnet8", f"--seed={seed}").result
        for seed in range(3)
    ]
    mean, spread = print_baseline(baseline)
    for kind in method_classes():
        name = kind.__name__.lower()
        if name in FOR_OTHER_NETWORKS or (options.only and name not in options.only):
            continue
        text, hard_weight = SETTINGS.get(name, (name, f"{kind.published_hard_weight:g}"))
        pair = ["--student=resnet8", f"--teacher={options.teacher}"]
        pair = ["--student=multi_exit/resnet8"] if kind.family == "self" else pair
        flags = [*shared, *pair, f"--method={text}", f"--hard_weight={hard_weight}"]
        try:
            result = complete(directory / name, "distill", *flags).result
        except ProgramError as error:
            print(f"| {text} | {hard_weight} | failed: {error} | | |", flush=True)
            continue
        accuracy = 100 * result["last"]["val_accuracy"]
        cells = [
            text,
            hard_weight,
            f"{accuracy:.2f}",
            describe_gain(accuracy, mean, spread),
            f"{result['seconds']:.0f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
