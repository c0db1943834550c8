"""Patient and consistent teaching (Beyer et al. 2022, 2106.05237): does its gain grow with the length of the training?

    python -m scripts.reproduce.funmatch --teacher=runs/resnet20 --data_dir=... --epochs 10 40 --seeds 0 1

For each number of epochs and each seed, the student learns from the labels, by KD with a hard loss (as published, on
images that are cropped and flipped), and by FunMatch (`experiments/configs/funmatch.flags`: the teacher's predictions
for strong, mixed views and no labels). All have the optimizer of `funmatch_budget.flags`. With --views=V the mixed
batches of V epochs are recorded for each seed, and a further student sees them again and again. Complete runs and
recordings are not made again. Further flags, such as --train_split=train[:5000], are those of all programs.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from scripts.reproduce.programs import complete, data_flags, mean_and_spread, run_program

CONFIGS = "--flagfile=experiments/configs/funmatch"
LIGHT = ["--data=cifar10", "--batch_size=128", "--crop=4", "--flip", f"{CONFIGS}_budget.flags"]
WAYS = {"labels": "labels alone", "kd": "KD with a hard loss", "funmatch": "FunMatch", "recorded": "FunMatch, recorded"}


def accuracies(options: argparse.Namespace, seed: int, epochs: int) -> dict[str, float]:
    """The accuracy on the test images after the last epoch, by the ways of WAYS."""
    directory, shared = Path(options.runs) / f"seed{seed}", [f"--seed={seed}", *data_flags(options.data_dir)]
    shared += options.flags
    length = [f"--epochs={epochs}", f"--test_every={epochs}"]
    teacher, student = f"--teacher={options.teacher}", f"--student={options.student}"
    programs = {
        "labels": ("train", *LIGHT, f"--model={options.student}", *shared),
        "kd": ("distill", *LIGHT, teacher, student, "--method=kd", "--hard_weight=0.1", *shared),
        "funmatch": ("distill", f"{CONFIGS}.flags", teacher, student, *shared),
    }
    names = {way: f"{way}-{epochs}" for way in programs}
    if options.views:
        views, recording = f"--views={options.views}", directory / f"{options.views}views"
        if not (recording / "manifest.json").exists():
            run_program(recording, "record", f"{CONFIGS}_views.flags", *shared, teacher, views, f"--output={recording}")
        names["recorded"] = f"recorded{options.views}-{epochs}"
        programs["recorded"] = ("distill", f"{CONFIGS}.flags", f"--recording={recording}", student, *shared)
    runs = {way: complete(directory / names[way], *program, *length) for way, program in programs.items()}
    return {way: run.result["last"]["val_accuracy"] for way, run in runs.items()}


def lines(results: dict[int, list[dict[str, float]]]) -> list[str]:
    """The table as Markdown.

    Args:
        results: for each number of epochs, the accuracies of each seed.

    >>> print("\\n".join(lines({4: [{"kd": 0.5, "funmatch": 0.4}], 8: [{"kd": 0.6, "funmatch": 0.7}]})))
    | | epochs | accuracy, % | spread | against KD | each seed |
    |---|---:|---:|---:|---:|---|
    | KD with a hard loss | 4 | 50.00 | - | +0.00 | 50.00 |
    | KD with a hard loss | 8 | 60.00 | - | +0.00 | 60.00 |
    | FunMatch | 4 | 40.00 | - | -10.00 | 40.00 |
    | FunMatch | 8 | 70.00 | - | +10.00 | 70.00 |
    """
    table = ["| | epochs | accuracy, % | spread | against KD | each seed |", "|---|---:|---:|---:|---:|---|"]
    for way in next(iter(results.values()))[0]:
        for epochs, seeds in results.items():
            values = [seed[way] for seed in seeds]
            gain = statistics.mean(100 * (seed[way] - seed["kd"]) for seed in seeds)
            listed = " ".join(f"{100 * value:.2f}" for value in values)
            cells = [WAYS[way], str(epochs), *mean_and_spread(values), f"{gain:+.2f}", listed]
            table.append("| " + " | ".join(cells) + " |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="the run of the teacher")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 40], help="lengths of the training")
    parser.add_argument("--views", type=int, default=0, help="epochs of mixed batches to record; 0 records none")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--runs", default="runs/funmatch", help="directory of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options, options.flags = parser.parse_known_args()
    results = {epochs: [accuracies(options, seed, epochs) for seed in options.seeds] for epochs in options.epochs}
    print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
