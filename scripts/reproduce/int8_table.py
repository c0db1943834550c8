"""Students in int8: post-training quantization and quantization-aware distillation, by what their exported files do.

    python -m scripts.reproduce.int8_table --data_dir=... --runs=runs/int8_cifar10
    python -m scripts.reproduce.int8_table --data=digits --runs=runs/int8_digits --students resnet8 --epochs=8 \\
        --noflip --crop=0

A teacher is trained once. For each student and seed it teaches a float student. The float student then becomes an int8
student in three ways: its file is quantized after the training, or it is trained on for a tenth of the epochs, taught
by itself or by the teacher. Every number is that of the exported LiteRT file on the test images; no export is rejected,
because the table shows what is lost. Complete runs and measured files are not repeated. Further flags are those of all
trainings.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_keras.export import load
from kd_keras.files import write_json
from kd_keras.runs import Run, export
from kd_keras.runs.images import read_images
from kd_keras.runs.sources import open_source
from scripts.reproduce.programs import complete, data_flags, mean_and_spread

STUDENTS = ("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2(width=0.5)", "resnet8")
ANY = {"agreement": 0.0, "accuracy_drop": 1.0, "difference": 1.0}  # tolerances
BATCH = 100
ROWS = ("float", "post-training int8", "int8 from the float student", "int8 from the teacher")


def shared_flags(options: argparse.Namespace, seed: int, epochs: int) -> list[str]:
    """The flags of every training."""
    splits = [f"--train_split={options.train_split}", f"--test_split={options.test_split}"]
    length = [f"--epochs={epochs}", f"--test_every={epochs}", f"--seed={seed}"]
    data = [f"--data={options.data}", *data_flags(options.data_dir)]
    return ["--flagfile=experiments/configs/int8_cifar10.flags", *data, *splits, *length, *options.flags]


def float_flags(options: argparse.Namespace, student: str, teacher: Path, seed: int) -> list[str]:
    """The flags of the float student, which `distill` trains."""
    taught = [f"--teacher={teacher}", f"--student={student}", "--method=kd", "--hard_weight=0.1"]
    return [*shared_flags(options, seed, options.epochs), *taught]


def int8_flags(options: argparse.Namespace, student: Path, teacher: Path, seed: int) -> list[str]:
    """The flags of the quantization-aware training of a float student."""
    taught = [f"--teacher={teacher}", f"--student={student}", "--method=kd", "--hard_weight=0.1", "--quantize=int8"]
    rate = ["--warmup_epochs=0", f"--learning_rate={options.int8_learning_rate}"]
    return [*shared_flags(options, seed, max(1, options.epochs // 10)), *taught, *rate]


def directory(student: str) -> str:
    """The name of a student's directory.

    >>> directory("shufflenet_v2(width=0.5)")
    'shufflenet_v2_width_0.5'
    """
    return re.sub(r"[^\w.]+", "_", student).strip("_")


def measure(options: argparse.Namespace, student: str, teacher: Path, seed: int) -> dict[str, dict[str, float]]:
    """What the exported files of a student and a seed do, by the names of `ROWS`; trains what is missing."""
    folder = Path(options.runs) / directory(student) / f"seed{seed}"
    plain = complete(folder / "float", "distill", *float_flags(options, student, teacher, seed))
    teachers = {"from_float": plain.path, "from_teacher": teacher}
    taught = [
        complete(folder / name, "distill", *int8_flags(options, plain.path, source, seed))
        for name, source in teachers.items()
    ]
    file = folder / "measured.json"
    trained = max((run.path / "result.json").stat().st_mtime for run in (plain, *taught))
    if not file.exists() or file.stat().st_mtime < trained:
        write_json(file, _measure_files(options, plain, taught))
    return json.loads(file.read_text())


def _measure_files(options: argparse.Namespace, plain: Run, taught: Sequence[Run]) -> dict[str, dict[str, float]]:
    exports = export(plain, ["litert", "litert_int8"], tolerance=ANY)
    for run in taught:
        exports += export(run, ["litert_int8"], tolerance=ANY)
    test = open_source(options.data, options.test_split, options.data_dir)
    images, _ = read_images(test, (test.image_shape or ())[:2], BATCH)
    reference = plain.model().predict(images.astype("float32"), batch_size=BATCH, verbose=0).argmax(-1)
    measured = {}
    for name, exported in zip(ROWS, exports, strict=True):
        run = load(exported.path)
        batches = [run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        measured[name] = {
            "accuracy": exported.accuracy,
            "agreement": float((np.concatenate(batches).argmax(-1) == reference).mean()),
            "kilobytes": exported.bytes / 1000,
            "milliseconds": exported.milliseconds,
        }
    return measured


def lines(results: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> Iterator[str]:
    """Yields the table as Markdown: the mean over the seeds, of the accuracy also the standard deviation.

    Args:
        results: by student, what `measure` returns for each seed.

    >>> one = {name: {"accuracy": 0.5, "agreement": 1, "kilobytes": 9.6, "milliseconds": 0.25} for name in ROWS}
    >>> print(list(lines({"resnet8": [one]}))[2])
    | resnet8 | float | 50.00 | - | 100.00 | 10 | 0.25 | 50.00 |
    """
    yield "| student | file | accuracy, % | spread | agreement, % | kilobytes | milliseconds | each seed |"
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    for student, seeds in results.items():
        for name in ROWS:
            rows = [seed[name] for seed in seeds]
            accuracies = [row["accuracy"] for row in rows]
            means = {column: statistics.mean(row[column] for row in rows) for column in rows[0]}
            cells: list[Any] = [student, name, *mean_and_spread(accuracies), f"{100 * means['agreement']:.2f}"]
            cells += [f"{means['kilobytes']:,.0f}", f"{means['milliseconds']:.2f}"]
            yield "| " + " | ".join([*cells, " ".join(f"{100 * value:.2f}" for value in accuracies)]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--runs", required=True, help="directory of the runs")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--epochs", type=int, default=30, help="of the float students; int8 has a tenth of them")
    parser.add_argument("--teacher_epochs", type=int, default=30)
    parser.add_argument("--int8_learning_rate", type=float, default=0.001)
    parser.add_argument("--train_split", default="train", help="split of the training images")
    parser.add_argument("--test_split", default="test", help="split of the test images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options, options.flags = parser.parse_known_args()
    flags = [*shared_flags(options, 0, options.teacher_epochs), f"--model={options.teacher}"]
    teacher = complete(Path(options.runs) / "teacher", "train", *flags)
    accuracy = 100 * teacher.result["last"]["val_accuracy"]
    print(f"teacher: {options.teacher}, {teacher.result['parameters']:,} parameters, accuracy {accuracy:.2f} %\n")
    results = {
        student: [measure(options, student, teacher.path, seed) for seed in options.seeds]
        for student in options.students
    }
    print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
