"""The rows of the tables of pretraining and of transformers: their flags, and what they print."""

import argparse
from pathlib import Path

import pytest

from scripts.reproduce import pretraining_table, transformers_table
from tests.support.programs import parse


@pytest.mark.parametrize("data", list(pretraining_table.SETTINGS))
def test_the_flags_of_pretraining_and_of_fine_tuning_are_those_of_their_programs(data):
    options = argparse.Namespace(
        data=data, data_dir=None, teacher="teacher", pretraining_epochs=None, epochs=None, flags=["--devices=1"]
    )
    for loss in pretraining_table.LOSSES:
        parse("pretrain", *pretraining_table.pretraining_flags(options, loss, 1), "--run=run")
    images = pretraining_table.SETTINGS[data].images
    for percent in pretraining_table.PERCENTS:
        flags = pretraining_table.training_flags(options, "run", percent, 1)
        parse("train", *flags, "--run=run")
        assert f"--train_split=train[:{images * percent // 100}]" in flags


def test_a_row_without_pretraining_has_no_embeddings_to_measure():
    few = {"1 %": 0.2, "10 %": 0.4, "100 %": 0.6}
    table = list(pretraining_table.lines({"from scratch": [few], "queue": [{"knn": 0.3, "probe": 0.35, **few}]}))
    assert table[2].startswith("| from scratch | - | - | 20.00 ± - |")
    assert table[3].startswith("| queue | 30.00 ± - | 35.00 ± - | 20.00 ± - |")


def test_the_flags_of_every_student_are_those_of_its_program():
    options = argparse.Namespace(data_dir=None, flags=["--devices=1"])
    for rows in (transformers_table.deit_rows(Path("teacher")), transformers_table.cnn_rows(Path("teacher"))):
        for program, flags in rows.values():
            parse(program, *transformers_table.shared_flags(options, 100, 2, 1), *flags, "--run=run")
