"""Pretraining without labels, then fine-tuning with few: each loss against training from scratch, as Markdown.

    python -m scripts.reproduce.pretraining_table --data=cifar10 --data_dir=... --teacher=runs/resnet20 \\
        --runs=runs/pretraining_cifar10

Each loss pretrains the student on all images, without their labels. Each pretrained network, and a new one, is then
trained on 1 %, 10 % and 100 % of the labels; a percentage has the same number of epochs in every row. The teacher is a
finished run. Complete runs are not run again. Further flags are those of all trainings, such as --image_size.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_keras.runs import Run
from scripts.reproduce.programs import complete, data_flags, mean_and_spread

LOSSES = {
    "queue": ("--method=queue",),
    "dense": ("--method=dense",),
    "queue and tokens": ("--method=queue", "--method=tokens"),
}
SCRATCH = "from scratch"
PERCENTS = {1: 10, 10: 3, 100: 1}  # of the labels, with the factor of the epochs: few images need more of them


@dataclass(frozen=True)
class Setting:
    """A dataset, the network that is pretrained on it, and their trainings.

    Attributes:
        images: how many of the training images are used.
        test: the split of the test images.
        student: the network.
        pretraining_epochs: epochs of pretraining.
        epochs: epochs with all labels.
        flags: of all trainings.
    """

    images: int
    test: str
    student: str
    pretraining_epochs: int
    epochs: int
    flags: tuple[str, ...]


SETTINGS = {
    "cifar10": Setting(10000, "test", "resnet8", 15, 10, ("--flip", "--crop=4")),
    "imagenette_96": Setting(
        2500, "validation", "applications/MobileNetV3Small", 20, 20, ("--flip", "--resized_crop", "--image_size=64,64")
    ),
}


def pretraining_flags(options: argparse.Namespace, loss: str, seed: int) -> list[str]:
    """The flags of `pretrain`; the labels only measure the embeddings after the training."""
    setting, epochs = SETTINGS[options.data], options.pretraining_epochs or SETTINGS[options.data].pretraining_epochs
    names = [f"--teacher={options.teacher}", f"--student={setting.student}", *LOSSES[loss]]
    measured = [f"--labeled={options.data}", f"--labeled_split=train[:{setting.images}]", f"--test_every={epochs}"]
    # The published rate, 5e-4, is meant for hundreds of epochs; 0.005 was chosen for this table and not tuned.
    length = [f"--epochs={epochs}", "--batch_size=128", "--learning_rate=0.005"]
    return [*_data(options, 100), *names, *measured, *length, f"--seed={seed}", *options.flags]


def training_flags(options: argparse.Namespace, model: str, percent: int, seed: int) -> list[str]:
    """The flags of `train` with some of the labels; a pretrained network has the lower rate that is the default."""
    epochs = (options.epochs or SETTINGS[options.data].epochs) * PERCENTS[percent]
    length = [f"--epochs={epochs}", f"--test_every={epochs}", "--batch_size=64", "--coupled_weight_decay=0.0005"]
    return [*_data(options, percent), f"--model={model}", *length, f"--seed={seed}", *options.flags]


def _data(options: argparse.Namespace, percent: int) -> list[str]:
    setting = SETTINGS[options.data]
    splits = [f"--train_split=train[:{setting.images * percent // 100}]", f"--test_split={setting.test}"]
    return [f"--data={options.data}", *data_flags(options.data_dir), *splits, *setting.flags]


def run_row(options: argparse.Namespace, row: str, seed: int) -> dict[str, float]:
    """Pretrains by a loss if necessary, and trains on each part of the labels.

    Returns:
        The accuracies: of the nearest neighbors and of a linear probe in the pretrained embeddings, and by percentage.
    """
    directory = Path(options.runs) / f"seed{seed}" / row.replace(" ", "_")
    model, measured = SETTINGS[options.data].student, {}
    if row != SCRATCH:
        pretrained = complete(directory / "pretrained", "pretrain", *pretraining_flags(options, row, seed))
        last = pretrained.result["last"]
        model, measured = str(pretrained.path), {"knn": last["val_knn"], "probe": last["val_linear_probe"]}
    for percent in PERCENTS:
        flags = training_flags(options, model, percent, seed)
        run = complete(directory / f"percent{percent}", "train", *flags)
        measured[f"{percent} %"] = run.result["last"]["val_accuracy"]
    return measured


def lines(results: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """Yields the table as Markdown: means over the seeds in percent, with their standard deviations.

    Args:
        results: by row, what `run_row` returns for each seed.

    >>> scratch = [{"1 %": 0.2, "10 %": 0.4, "100 %": 0.6}, {"1 %": 0.22, "10 %": 0.4, "100 %": 0.6}]
    >>> print(list(lines({"from scratch": scratch}))[-1])
    | from scratch | - | - | 21.00 ± 1.41 | 40.00 ± 0.00 | 60.00 ± 0.00 |
    """
    columns = ["knn", "probe", *(f"{percent} %" for percent in PERCENTS)]
    yield "| pretrained by | neighbors | probe | 1 % of the labels | 10 % | 100 % |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row, seeds in results.items():
        cells = [
            " ± ".join(mean_and_spread([seed[column] for seed in seeds])) if column in seeds[0] else "-"
            for column in columns
        ]
        yield "| " + " | ".join([row, *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SETTINGS), default="cifar10")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--teacher", required=True, help="a finished run")
    parser.add_argument("--runs", required=True, help="directory of the runs")
    parser.add_argument("--pretraining_epochs", type=int, help="epochs without labels")
    parser.add_argument("--epochs", type=int, help="epochs with all labels; fewer labels have more of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options, options.flags = parser.parse_known_args()
    result = Run(options.teacher).result
    print(f"teacher: {result['parameters']:,} parameters, accuracy {100 * result['last']['val_accuracy']:.2f} %\n")
    rows = [SCRATCH, *LOSSES]
    print("\n".join(lines({row: [run_row(options, row, seed) for seed in options.seeds] for row in rows})))


if __name__ == "__main__":
    main()
