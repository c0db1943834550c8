"""The rows of the table of int8 students: their flags, and what it prints."""

import argparse
from pathlib import Path

from scripts.reproduce.int8_table import ROWS, STUDENTS, directory, float_flags, int8_flags, lines, shared_flags
from tests.support.programs import parse

OPTIONS = argparse.Namespace(
    data="cifar10", data_dir=None, train_split="train[:64]", test_split="test", epochs=30, int8_learning_rate=0.001,
    flags=["--devices=1"],
)  # fmt: skip


def test_the_flags_of_every_training_are_those_of_its_program():
    assert len({directory(student) for student in STUDENTS}) == len(STUDENTS)
    parse("train", *shared_flags(OPTIONS, 0, 8), "--model=resnet20", "--run=run")
    for student in STUDENTS:
        parse("distill", *float_flags(OPTIONS, student, Path("teacher"), 1), "--run=run")
    flags = int8_flags(OPTIONS, Path("student"), Path("teacher"), 1)
    parse("distill", *flags, "--run=run")
    assert "--epochs=3" in flags and "--quantize=int8" in flags, "a tenth of the training"


def test_a_row_has_the_mean_of_the_seeds():
    def measured(accuracy):
        row = {"accuracy": accuracy, "agreement": accuracy + 0.1, "kilobytes": 1234.4, "milliseconds": accuracy}
        return dict.fromkeys(ROWS, row)

    table = list(lines({"resnet8": [measured(0.5), measured(0.7)]}))
    assert len(table) == 2 + len(ROWS)
    assert table[3] == "| resnet8 | post-training int8 | 60.00 | 14.14 | 70.00 | 1,234 | 0.60 | 50.00 70.00 |"
