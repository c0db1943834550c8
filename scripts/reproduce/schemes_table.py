"""The schemes made of several trainings, each against plain KD with the same budget, as Markdown.

    python -m scripts.reproduce.schemes_table --data=mnist --data_dir=... --runs=runs/schemes_mnist
    python -m scripts.reproduce.schemes_table --data=cifar10 --data_dir=... --runs=runs/schemes_cifar10 --epochs=24

The budget is a number of epochs over the labeled images. A scheme divides it among all networks that it trains: the
student, its assistants, generations or peers. The teachers are given: they are trained once with the seed 0 and are not
part of it, as for plain KD. Each row is a program of experiments/, started for every seed; complete runs are not run
again. Further flags are those of all trainings.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_keras.runs import Run
from scripts.reproduce.programs import complete, data_flags, mean_and_spread, run_program


@dataclass(frozen=True)
class Networks:
    """The models of the zoo that a table compares."""

    teacher: str
    second_teacher: str
    assistant: str
    student: str


NETWORKS = {
    "mnist": Networks(
        "mlp(hidden=(400, 400))", "mlp(hidden=(200, 200, 200))", "mlp(hidden=(64,))", "mlp(hidden=(16,))"
    ),
    "cifar10": Networks("resnet20", "wrn_16_2", "resnet14", "resnet8"),
}
KD = ("--method=kd", "--hard_weight=0.1")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        number: of the scheme, which groups the rows; 0 for what it is compared with.
        name: what the table calls it.
        program: of experiments/.
        flags: of the program, without those of `shared_flags`.
        networks: how many networks share the budget.
        last: of a scheme that is made of several runs, the directory of the student's.
        pseudo: whether it trains on labeled images and on as many that the teacher labels, for half the epochs.
    """

    number: int
    name: str
    program: str
    flags: tuple[str, ...]
    networks: int = 1
    last: str = ""
    pseudo: bool = False

    @property
    def directory(self) -> str:
        """The name of its runs."""
        return self.name.replace(",", "").replace(" ", "_")


def table_rows(networks: Networks, teacher: Path, second: Path) -> list[Row]:
    """All rows, by the number of the scheme."""
    student, assistant = networks.student, networks.assistant
    by, both = f"--teacher={teacher}", [f"--teacher={teacher}", f"--teacher={second}"]
    to, peers = f"--student={student}", [f"--peer={student}"] * 2
    last = student.partition("(")[0]
    chain = [by, to, f"--assistant={assistant}"]
    return [
        Row(0, "labels alone", "train", [f"--model={student}"]),
        Row(0, "plain KD", "distill", [by, to, *KD]),
        Row(1, "teacher assistant", "scheme", ["--scheme=assistants", *chain, *KD], 2, f"2-{last}"),
        Row(1, "teacher assistant, dense", "scheme", ["--scheme=assistants", "--dense", *chain], 2, f"2-{last}"),
        Row(2, "born-again, no teacher", "scheme", ["--scheme=born_again", to, "--generations=1"], 2, f"1-{last}"),
        Row(3, "mutual, mean of two peers", "scheme", ["--scheme=mutual", *peers], 2),
        Row(3, "mutual with teacher", "scheme", ["--scheme=mutual", *peers, by], 2),
        Row(4, "virtual teacher", "scheme", ["--scheme=virtual_teacher", to]),
        Row(4, "past student", "scheme", ["--scheme=past_student", to]),
        Row(4, "mean teacher", "scheme", ["--scheme=mean_teacher", to]),
        Row(5, "KD with DOT", "distill", [by, to, *KD, "--optimizer=dot"]),
        Row(6, "FunMatch", "distill", [by, to, "--method=kd(temperature=1, weight=1)", "--hard_weight=0", "--mixup=1"]),
        Row(7, "pseudo-labels", "train", [f"--model={student}"], pseudo=True),
        Row(7, "pseudo-labels, KD", "distill", [by, to, *KD], pseudo=True),
        Row(8, "two teachers, equal", "distill", [*both, to, *KD]),
        Row(8, "two teachers, by example", "distill", [*both, to, *KD, "--teacher_weights=cross_entropy"]),
        Row(8, "two teachers, features", "distill", [*both, to, *KD, *_features()]),
    ]


def _features() -> list[str]:
    """Both teachers' embeddings, with an adapter each, in addition to KD."""
    return [f"--method=fitnet(student_tap='embedding', teacher_tap='{n}:embedding', weight=1)" for n in range(2)]


def pseudo_labels(options: argparse.Namespace) -> list[str]:
    """The flags of the dataset of labeled images and of those that the teacher labels, which is made if necessary."""
    name, directory = f"{options.data}_pseudo", Path(options.runs) / "datasets"
    if not (directory / name).exists():
        flags = [f"--data={options.data}", *data_flags(options.data_dir), f"--name={name}"]
        flags.append(f"--teacher={Path(options.runs) / 'teacher'}")
        splits = [f"--train_split={options.train}", f"--unlabeled_split={options.unlabeled}"]
        flags.append(f"--threshold={options.threshold}")
        run_program(directory, "label", *flags, *splits, f"--test_split={options.test}", f"--output={directory}")
    return [f"--data={name}", f"--data_dir={directory}", "--train_split=labeled+pseudo", "--test_split=test"]


def shared_flags(options: argparse.Namespace, seed: int, epochs: int) -> list[str]:
    """The flags of every training on the labeled images."""
    splits = [f"--train_split={options.train}", f"--test_split={options.test}", *data_flags(options.data_dir)]
    length = [f"--epochs={epochs}", f"--test_every={epochs}", f"--seed={seed}"]
    return [f"--flagfile=experiments/configs/schemes_{options.data}.flags", *splits, *length, *options.flags]


def accuracy(result: Mapping[str, Any]) -> float:
    """The accuracy of a student on the test images, of peers the mean.

    >>> accuracy({"last": {"val_accuracy": 0.9}, "peers": [{"accuracy": 0.5}, {"accuracy": 0.7}]})
    0.6
    """
    peers = [peer["accuracy"] for peer in result.get("peers", ())]
    return statistics.mean(peers) if peers else result["last"]["val_accuracy"]


def run_row(options: argparse.Namespace, row: Row, seed: int) -> Run:
    """The complete run of a row for a seed."""
    epochs = options.epochs // (2 if row.pseudo else row.networks)
    flags = [*shared_flags(options, seed, epochs), *(pseudo_labels(options) if row.pseudo else [])]
    return complete(Path(options.runs) / f"seed{seed}" / row.directory, row.program, *flags, *row.flags, last=row.last)


def lines(results: Sequence[tuple[Row, Sequence[float]]], epochs: int) -> Iterator[str]:
    """Yields the table as Markdown. A gain is the mean over the seeds, with its standard deviation.

    Args:
        results: the rows, each with the accuracy of each seed; "plain KD" is one of them.
        epochs: the budget.

    >>> rows = [(Row(0, "plain KD", "", ()), [0.5, 0.6]), (Row(3, "mutual", "", (), 2), [0.55, 0.6])]
    >>> print("\\n".join(lines(rows, 8)))
    | scheme | | networks x epochs | accuracy, % | spread | against plain KD | each seed |
    |---:|---|---:|---:|---:|---:|---|
    | - | plain KD | 1 x 8 | 55.00 | 7.07 | +0.00 ± 0.00 | 50.00 60.00 |
    | 3 | mutual | 2 x 4 | 57.50 | 3.54 | +2.50 ± 3.54 | 55.00 60.00 |
    """
    yield "| scheme | | networks x epochs | accuracy, % | spread | against plain KD | each seed |"
    yield "|---:|---|---:|---:|---:|---:|---|"
    plain = next(values for row, values in results if row.name == "plain KD")
    for row, values in results:
        gain, spread = mean_and_spread([a - b for a, b in zip(values, plain, strict=True)])
        budget = f"1 x {epochs // 2}, more images" if row.pseudo else f"{row.networks} x {epochs // row.networks}"
        seeds = " ".join(f"{100 * value:.2f}" for value in values)
        cells = [str(row.number or "-"), row.name, budget, *mean_and_spread(values), f"{float(gain):+.2f} ± {spread}"]
        yield "| " + " | ".join([*cells, seeds]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(NETWORKS), default="mnist")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--runs", required=True, help="directory of the runs")
    parser.add_argument("--epochs", type=int, default=24, help="the budget of each row, an even number")
    parser.add_argument("--teacher_epochs", type=int, default=24)
    parser.add_argument("--train", default="train[:5000]", help="split of the labeled images")
    parser.add_argument(
        "--unlabeled", default="train[5000:10000]", help="split of as many images for the pseudo-labels"
    )
    parser.add_argument("--threshold", type=float, default=0.9, help="the least probability of a pseudo-label")
    parser.add_argument("--test", default="test", help="split of the test images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--schemes", type=int, nargs="+", default=list(range(1, 9)), help="numbers of the schemes")
    options, options.flags = parser.parse_known_args()
    if options.epochs % 2 or options.epochs < 2:
        parser.error(f"--epochs must be an even number, but received {options.epochs}.")
    directory, networks = Path(options.runs), NETWORKS[options.data]
    of_teacher = shared_flags(options, 0, options.teacher_epochs)
    teachers = {"teacher": networks.teacher}
    if 8 in options.schemes:
        teachers["second_teacher"] = networks.second_teacher
    for name, model in teachers.items():
        result = complete(directory / name, "train", *of_teacher, f"--model={model}").result
        print(f"{name}: {model}, {result['parameters']:,} parameters, accuracy {100 * accuracy(result):.2f} %")
    results = []
    for row in table_rows(networks, directory / "teacher", directory / "second_teacher"):
        if row.number in (0, *options.schemes):
            runs = [run_row(options, row, seed) for seed in options.seeds]
            results.append((row, [accuracy(run.result) for run in runs]))
    print("\n".join(lines(results, options.epochs)))


if __name__ == "__main__":
    main()
