"""Distils a resnet8 by every method, each for the same short budget, and prints what came of it as Markdown.

    python -m scripts.reproduce.methods_cifar10 --teacher=runs/resnet20 --runs=runs/methods --data_dir=...

Each run is `python -m experiments.distill` with the method's defaults and the hard loss's weight that they were
published beside; a finished run is not run again, and one that fails does not end the rest. The student alone has
three seeds, to see how far two runs of one recipe are apart.
"""

import argparse
import statistics
import sys
from pathlib import Path

from experiments.methods import kinds
from experiments.sweeps import Planned, finish

BUDGET = "experiments/configs/cifar10_methods.flags"
# Where the defaults are not what one run of three epochs can show.
SETTINGS = {
    "ab": ("ab(weight={0: 1, 1: 0})", "{0: 0, 1: 1}"),  # two stages, as published: one epoch, then the labels alone
    "fsp": ("fsp(weight={0: 1, 1: 0})", "{0: 0, 1: 1}"),
    "dkd": ("dkd(warmup_epochs=1)", "1"),
    "reviewkd": ("reviewkd(warmup_epochs=1)", "1"),
    "ctkd": ("ctkd(ramp_epochs=1)", "0.1"),
    "crd": ("crd(negatives=4096)", "1"),
    "queue": ("queue(size=2048)", "1"),  # published for images without labels, these three; without, nothing trains
    "dense": ("dense", "1"),  # the student's classifier
    "tokens": ("tokens", "1"),
    "cckernel": ("cckernel", "1"),  # published beside KD alone
    "ld": ("ld(student_tap='logits', teacher_tap='logits', bins=10)", "1"),  # the classes in the place of bins
}


def run(asked: argparse.Namespace, program: str, name: str, *given: str) -> dict | str:
    """The result of one run, or its error; without the student alone there is nothing to compare with."""
    data = [f"--data_dir={asked.data_dir}"] if asked.data_dir else []
    found = finish(Planned(Path(asked.runs) / name, program, (f"--flagfile={BUDGET}", *data, *given)))
    if program == "train" and isinstance(found, str):
        sys.exit(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="a finished run")
    parser.add_argument("--runs", default="runs/methods", help="where the runs stand")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--only", nargs="*", help="methods to run, by name; all by default")
    asked = parser.parse_args()
    print("| method | hard loss | accuracy, % | beyond the student alone | seconds |\n|---|---|---:|---|---:|")
    alone = [run(asked, "train", f"alone{seed}", "--model=resnet8", f"--seed={seed}") for seed in range(3)]
    accuracies = [100 * each["last"]["val_accuracy"] for each in alone]
    mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
    each, seconds = " ".join(f"{accuracy:.2f}" for accuracy in accuracies), alone[0]["seconds"]
    print(f"| student alone, seeds 0 to 2 | 1 | {mean:.2f} ({spread:.2f}) | {each} | {seconds:.0f} |", flush=True)
    for kind in kinds():
        name = kind.__name__.lower()
        if not kind.trains_student or (asked.only and name not in asked.only):
            continue
        text, hard = SETTINGS.get(name, (name, f"{kind.published_hard_weight:g}"))
        pair = ["--student=resnet8", f"--teacher={asked.teacher}"]
        pair = ["--student=multi_exit/resnet8"] if kind.family == "self" else pair
        given = [*pair, f"--method={text}", f"--hard_weight={hard}"]
        found = run(asked, "distill", name, *given)
        if isinstance(found, str):
            print(f"| {text} | {hard} | failed: {found} | | |", flush=True)
            continue
        accuracy = 100 * found["last"]["val_accuracy"]
        verdict = "loses" if accuracy < mean else "gains"
        verdict += ", within two spreads" if abs(accuracy - mean) < 2 * spread else ""
        cells = [text, hard, f"{accuracy:.2f}", f"{accuracy - mean:+.2f}, {verdict}", f"{found['seconds']:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
