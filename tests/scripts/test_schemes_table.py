"""The rows of the table of the schemes: their flags, and their budgets."""

import argparse
from pathlib import Path

import pytest

from scripts.reproduce.schemes_table import NETWORKS, Row, lines, shared_flags, table_rows
from tests.support.programs import parse


@pytest.mark.parametrize("data", list(NETWORKS))
def test_the_flags_of_every_row_are_those_of_its_program(data):
    options = argparse.Namespace(data=data, train="train[:64]", test="test", data_dir=None, flags=["--devices=1"])
    rows = table_rows(NETWORKS[data], Path("teacher"), Path("second"))
    assert {row.number for row in rows} == set(range(9))
    assert len({row.directory for row in rows}) == len(rows), "each row has a directory of its own"
    for row in rows:
        parse(row.program, *shared_flags(options, 1, 12 // row.networks), *row.flags, "--run=run")


def test_gains_are_those_of_the_same_seed():
    rows = [(Row(0, "plain KD", "", ()), [0.5, 0.7]), (Row(7, "pseudo", "", (), pseudo=True), [0.6, 0.8])]
    table = list(lines(rows, 8))
    assert table[-1] == "| 7 | pseudo | 1 x 4, more images | 70.00 | 14.14 | +10.00 ± 0.00 | 60.00 80.00 |"
