"""Programs that are killed, receive SIGTERM, or diverge: their exit codes, messages and files."""

import csv
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from kd_keras.training.checkpoint_files import checkpoints
from tests.support.programs import ROOT, program

TRAIN = ["--data=digits", "--model=mlp(hidden=(16,))", "--batch_size=50", "--deterministic"]


def test_kills_at_random_moments_leave_no_trace():
    """The short form of `python -m scripts.bench.kill_test --kills 20`."""
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "kill_test.py"), "--kills=2", "--seed=2"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr[-2000:]
    assert "After 2 kills: the same weights and logs, bit for bit." in process.stdout


def test_sigterm_saves_a_checkpoint_from_which_the_same_command_resumes(tmp_path):
    run = tmp_path / "run"
    given = [*TRAIN, f"--data_dir={tmp_path}", "--checkpoint_every=0", "--epochs=300", f"--run={run}"]
    command = [sys.executable, "-m", "experiments.train", *given]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (run / "metrics.csv").exists() or not (run / "metrics.csv").read_text().count("\n") > 2:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    saved = checkpoints(run / "checkpoint")[-1]
    resumed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    message = next(line for line in resumed.stdout if "Resuming" in line)
    resumed.kill()
    resumed.communicate()
    assert f"after epoch {int(saved.name[:5])} of 300" in message


def test_a_run_that_diverges_reports_the_step(tmp_path):
    given = [*TRAIN, f"--data_dir={tmp_path}", "--schedule=constant", "--epochs=3", f"--run={tmp_path / 'run'}"]
    ran = program("train", *given, "--learning_rate=1e38", check=False)
    assert ran.returncode != 0 and "a finite loss and finite gradients" in ran.stderr
    (path,) = (tmp_path / "run").glob("nonfinite_*.npz")
    batch = np.load(path)
    assert batch["index"].shape == (50,) and batch["images"].shape == (50, 8, 8, 1)
    assert f"epoch {batch['epoch']}, step {batch['step']}" in ran.stderr and not np.isfinite(batch["values"][0])


def test_flags_for_devices_do_not_change_the_results(tmp_path):
    given = [*TRAIN[:3], f"--data_dir={tmp_path}", "--epochs=2", "--checkpoint_every=3"]
    one = program("train", *given, "--nodeterministic", f"--run={tmp_path / 'one'}")
    assert "XLA off: slower on a CPU" in one.stdout and "replicas" not in one.stdout
    both = ["--strategy=mirrored", "--devices=2", "--scale_learning_rate=linear", "--base_batch_size=50"]
    two = program("train", *given, *both, "--sync_batch_norm", "--steps_per_execution=4", f"--run={tmp_path / 'two'}")
    assert "over 2 replicas" in two.stdout and "Learning rate 0.05: 0.05 scaled (linear" in two.stdout
    rows = [list(csv.DictReader(open(tmp_path / run / "metrics.csv"))) for run in ("one", "two")]
    for on_one, on_two in zip(*rows, strict=True):
        for name in on_one:
            assert float(on_one[name]) == pytest.approx(float(on_two[name]), rel=1e-4)
    assert json.loads((tmp_path / "two" / "result.json").read_text())["last"]["val_accuracy"] > 0


@pytest.mark.slow
def test_half_precision_and_flags_that_contradict_each_other(tmp_path):
    given = [*TRAIN[:3], f"--data_dir={tmp_path}", "--epochs=2", "--checkpoint_every=3"]
    half = program("train", *given, "--precision=mixed_float16", f"--run={tmp_path / 'half'}")
    assert "accuracy" in half.stdout and (tmp_path / "half" / "best.keras").exists()
    for wrong, message in (
        (["--steps_per_execution=3"], "steps_per_execution divides"),
        (["--jit=on", "--deterministic"], "deterministic form"),
        (["--strategy=multiworker"], "launch_local"),
        (["--strategy=mirrored", "--devices=3", "--drop_remainder"], "3 replicas divide"),
    ):
        ran = program("train", *given, *wrong, f"--run={tmp_path / 'wrong'}", "--overwrite", check=False)
        assert ran.returncode != 0 and message in ran.stderr
