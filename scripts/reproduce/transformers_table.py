"""Transformers and CNNs teach each other on CIFAR-10: a CNN teaches a DeiT, and a ViT teaches a CNN, as Markdown.

    python -m scripts.reproduce.transformers_table --data_dir=... --teacher=runs/resnet20 --runs=runs/transformers

The first table compares a DeiT that learns from the labels alone with one that has a distillation token, and with KD.
For the second, a ViT is trained once on all training images and teaches a CNN that sees few of them. Patches have 8
pixels, which makes transformers of 17 or 18 tokens. Complete runs are not run again. Further flags are those of all
trainings.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kd_keras.runs import Run
from scripts.reproduce.programs import complete, data_flags, mean_and_spread

SMALL = "patch_size=8, depth=4"
DEIT, PLAIN_DEIT = f"deit_tiny({SMALL})", f"deit_tiny({SMALL}, distillation_token=False)"
VIT, CNN = "vit_lite(patch_size=8, depth=6)", "resnet8"
KD = ("--method=kd", "--hard_weight=0.1")
OF_TRANSFORMERS = ("--optimizer=adamw", "--learning_rate=0.001", "--weight_decay=0.05", "--warmup_epochs=1")
OF_CNNS = ("--learning_rate=0.05", "--coupled_weight_decay=0.0005", "--warmup_epochs=1")


def deit_rows(teacher: Path) -> dict[str, tuple[str, list[str]]]:
    """The program and the flags of each row of the first table, by its name."""
    by, plain = f"--teacher={teacher}", f"--student={PLAIN_DEIT}"
    rows = {
        "labels alone": ("train", [f"--model={PLAIN_DEIT}"]),
        "distillation token, hard": ("distill", [by, f"--student={DEIT}", "--method=deit"]),
        "distillation token, soft": ("distill", [by, f"--student={DEIT}", "--method=deit(form='soft')"]),
        "KD, no token": ("distill", [by, plain, *KD]),
    }
    return {name: (program, [*flags, *OF_TRANSFORMERS]) for name, (program, flags) in rows.items()}


def cnn_rows(teacher: Path) -> dict[str, tuple[str, list[str]]]:
    """The program and the flags of each row of the second table, by its name."""
    taught = [f"--teacher={teacher}", f"--student={CNN}", *KD]
    rows = {
        "labels alone": ("train", [f"--model={CNN}"]),
        "KD": ("distill", taught),
        "KD and tokens": ("distill", [*taught, "--method=tokens"]),
    }
    return {name: (program, [*flags, *OF_CNNS]) for name, (program, flags) in rows.items()}


def shared_flags(options: argparse.Namespace, images: int | None, epochs: int, seed: int) -> list[str]:
    """The flags of every training; all training images if there is no number of them."""
    split = "train" if images is None else f"train[:{images}]"
    data = ["--data=cifar10", *data_flags(options.data_dir), f"--train_split={split}", "--flip", "--crop=4"]
    length = [f"--epochs={epochs}", f"--test_every={epochs}", "--batch_size=64", f"--seed={seed}"]
    return [*data, *length, *options.flags]


def lines(results: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Yields a table as Markdown: the accuracies of each row's seeds.

    >>> print(list(lines({"labels alone": [0.5, 0.52], "KD": [0.55, 0.55]}))[-1])
    | KD | 55.00 | 0.00 | +4.00 ± 1.41 | 55.00 55.00 |
    """
    yield "| trained by | accuracy, % | spread | against labels alone | each seed |"
    yield "|---|---:|---:|---:|---|"
    alone = results["labels alone"]
    for name, values in results.items():
        gain, spread = mean_and_spread([a - b for a, b in zip(values, alone, strict=True)])
        seeds = " ".join(f"{100 * value:.2f}" for value in values)
        yield "| " + " | ".join([name, *mean_and_spread(values), f"{float(gain):+.2f} ± {spread}", seeds]) + " |"


def accuracy(run: Run) -> float:
    """The accuracy of a run's network on the test images."""
    return run.result["last"]["val_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--teacher", required=True, help="a finished run of a CNN")
    parser.add_argument("--runs", required=True, help="directory of the runs")
    parser.add_argument("--images", type=int, default=10000, help="training images of the DeiT")
    parser.add_argument("--epochs", type=int, default=20, help="of the DeiT")
    parser.add_argument("--vit_epochs", type=int, default=12, help="of the ViT, on all training images")
    parser.add_argument("--few_images", type=int, default=2000, help="training images of the CNN")
    parser.add_argument("--cnn_epochs", type=int, default=60, help="of the CNN")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options, options.flags = parser.parse_known_args()
    directory = Path(options.runs)
    flags = [*shared_flags(options, None, options.vit_epochs, 0), f"--model={VIT}", *OF_TRANSFORMERS]
    vit = complete(directory / "vit", "train", *flags)
    tables = (
        ("deit", Run(options.teacher), deit_rows, options.images, options.epochs),
        ("cnn", vit, cnn_rows, options.few_images, options.cnn_epochs),
    )
    for name, teacher, rows, images, epochs in tables:
        results = {}
        for row, (program, flags) in rows(teacher.path).items():
            folder = directory / f"{name}{images}" / row.replace(",", "").replace(" ", "_")
            paths = [folder / f"seed{seed}" for seed in options.seeds]
            every = [shared_flags(options, images, epochs, seed) for seed in options.seeds]
            runs = [complete(path, program, *one, *flags) for path, one in zip(paths, every, strict=True)]
            results[row] = [accuracy(run) for run in runs]
        count = f"{teacher.result['parameters']:,} parameters"
        print(f"\n{name}, {images} images, teacher of {count} and {100 * accuracy(teacher):.2f} %\n")
        print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
