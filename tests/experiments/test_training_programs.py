"""experiments.train: what a run leaves behind, every flagfile, resuming, and what it starts from."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support.programs import ROOT, SMALL, program

CONFIGS = sorted((ROOT / "experiments" / "configs").glob("*.flags"))
RESULT = {
    "task", "metric", "epochs", "seconds", "seed", "last", "best_val_accuracy", "parameters", "data", "versions"
}  # fmt: skip


def load(run):
    return keras.saving.load_model(run / "model.keras")


def assert_close_weights(runs, atol=1e-6):
    first, *others = (load(run).get_weights() for run in runs)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a, b, atol=atol)


def test_what_a_run_leaves_behind(teacher):
    result = json.loads((teacher / "result.json").read_text())
    assert set(result) == RESULT and set(result["versions"]) >= {"tensorflow", "keras", "kd_keras", "python"}
    assert result["data"]["classes"] == 10 and result["data"]["image_shape"] == [8, 8, 1]
    rows = list(csv.DictReader(open(teacher / "metrics.csv")))
    assert len(rows) == 1 and float(rows[0]["val_accuracy"]) == result["last"]["val_accuracy"]
    assert list((teacher / "tensorboard").rglob("events.*")) and not (teacher / "checkpoint").exists()
    model = load(teacher)
    assert model.output_shape == (None, 10) and getattr(model, "optimizer", None) is None


def test_a_flagfile_repeats_the_run(teacher, tmp_path):
    program("train", f"--flagfile={teacher / 'flags.txt'}", f"--run={tmp_path / 'again'}")
    assert_close_weights([teacher, tmp_path / "again"])
    assert (tmp_path / "again" / "flags.txt").read_text() == (teacher / "flags.txt").read_text()


def test_the_same_command_does_nothing_more_and_another_is_refused(teacher, data_dir):
    before = (teacher / "model.keras").read_bytes()
    again = program("train", "--model=mlp(hidden=(16,))", *SMALL, data_dir, f"--run={teacher}")
    assert "complete: nothing to do" in again.stdout
    other = program("train", "--model=mlp(hidden=(9,))", *SMALL, data_dir, f"--run={teacher}", check=False)
    assert other.returncode == 2 and "--overwrite" in other.stderr and "hidden=(16,)" in other.stderr
    assert (teacher / "model.keras").read_bytes() == before


def test_a_run_may_be_older_than_a_flag(teacher, data_dir, tmp_path):
    run = Path(shutil.copytree(teacher, tmp_path / "older"))
    lines = (run / "flags.txt").read_text().splitlines()
    (run / "flags.txt").write_text("\n".join(line for line in lines if not line.startswith("--nodetermin")) + "\n")
    given = ["--model=mlp(hidden=(16,))", *SMALL, data_dir, f"--run={run}"]
    assert "nothing to do" in program("train", *given).stdout
    assert "--deterministic (now)" in program("train", *given, "--deterministic", check=False).stderr


FAST = ("digits_teacher", "digits_distill", "digits_baseline", "cifar10_distill")


@pytest.mark.parametrize(
    "config", [pytest.param(c, id=c.stem, marks=() if c.stem in FAST else pytest.mark.slow) for c in CONFIGS]
)
def test_every_flagfile_runs_one_step(config, teacher, data_dir, tmp_path):
    teaches = "--student" in config.read_text()
    extra = [f"--teacher={teacher}"] if teaches else []
    small = [*SMALL[:1], "--train_split=train[:32]", "--test_split=test[:32]", *SMALL[3:], data_dir]
    program("distill" if teaches else "train", f"--flagfile={config}", *small, *extra, f"--run={tmp_path / 'run'}")
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["last"]
    assert np.isfinite(list(metrics.values())).all()


def test_a_log_has_no_cursor_codes(data_dir, tmp_path):
    given = ["--model=mlp(hidden=(4,))", *SMALL[:3], SMALL[4], "--epochs=4", data_dir]
    for every in (1, 2):
        ran = program("train", *given, f"--test_every={every}", f"--run={tmp_path / str(every)}")
        assert "Epoch 4/4" in ran.stdout and not set("\b\r\x1b") & set(ran.stdout)


def test_a_killed_run_resumes(data_dir, tmp_path):
    command = ["--model=mlp(hidden=(16,), dropout=0.5)", *SMALL[:3], "--batch_size=32", "--shift=1", data_dir]
    program("train", *command, "--epochs=6", f"--run={tmp_path / 'whole'}")
    killed = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *command, "--epochs=6", f"--run={tmp_path / 'killed'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for line in killed.stdout:
        if line.startswith("Epoch 3"):
            killed.kill()
            break
    killed.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed = program("train", *command, "--epochs=6", f"--run={tmp_path / 'killed'}")
    assert "Resuming after epoch" in resumed.stdout
    assert len(list(csv.DictReader(open(tmp_path / "killed" / "metrics.csv")))) == 6
    assert_close_weights([tmp_path / "whole", tmp_path / "killed"])


def test_a_network_starts_from_weights_of_a_file(teacher, data_dir, tmp_path):
    given = ["--model=mlp(hidden=(16,))", *SMALL, data_dir, "--learning_rate=0"]
    ran = program("train", *given, f"--weights={teacher / 'model.keras'}", f"--run={tmp_path / 'run'}")
    assert "2 layers loaded" in ran.stdout
    assert_close_weights([teacher, tmp_path / "run"], atol=0)


def test_photographs_of_several_sizes(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for kind in ("cat", "dog"):
            folder = tmp_path / "photos" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (10 + number, 12, 3)).astype("uint8")
                keras.utils.save_img(folder / f"{number}.png", pixels)
    given = [f"--data={tmp_path / 'photos'}", "--model=mlp(hidden=(4,))", "--epochs=1", "--batch_size=4"]
    refused = program("train", *given, f"--run={tmp_path / 'run'}", check=False)
    assert refused.returncode == 2 and "--image_size" in refused.stderr and not (tmp_path / "run").exists()
    program("train", *given, "--image_size=8,8", "--label_smoothing=0.1", f"--run={tmp_path / 'run'}")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["data"]["class_names"] == ["cat", "dog"]
