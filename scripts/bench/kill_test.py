"""Kills a training program at random moments, resumes it until it is complete, and compares it with an undisturbed run.

    python -m scripts.bench.kill_test --kills 20

Every start is the same command. With --deterministic, which the script sets, on one device the weights and the log of
every epoch must be the same bit for bit. A kill can hit a process at any moment: while it starts, trains, writes a
checkpoint or tests. The script fails if the run was complete before all kills happened.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAM = ["--data=digits", "--batch_size=50", "--shift=1", "--optimizer=adam", "--learning_rate=0.003"]
PROGRAM += ["--checkpoint_every=3", "--deterministic", "--strategy=one"]
TEACHER = ["--model=mlp(hidden=(64,))", "--epochs=3"]
STUDENT = ["--student=mlp(hidden=(32,), dropout=0.3)", "--method=kd"]


def command(directory: Path, program: str, run: str, *options: str) -> list[str]:
    data = f"--data_dir={directory / 'datasets'}"
    return [sys.executable, "-m", f"experiments.{program}", *PROGRAM, data, f"--run={directory / run}", *options]


class Process:
    """One process of the program, and the lines that it printed with their times."""

    def __init__(self, arguments: list[str]):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.started, self.lines = time.monotonic(), []
        self.process = subprocess.Popen(arguments, cwd=ROOT, env=environment, **pipes)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.lines.append((time.monotonic() - self.started, line))

    def first_time(self, text: str) -> float:
        """The seconds after which it first printed a line with this text; infinite if it never did."""
        return next((moment for moment, line in list(self.lines) if text in line), float("inf"))

    def wait(self) -> float:
        """Waits for its end, and returns the seconds that it ran."""
        if self.process.wait():
            raise SystemExit(
                "The program failed without being killed:\n" + "".join(line for _, line in self.lines)[-3000:]
            )
        return time.monotonic() - self.started

    def kill(self, seconds: float, run: Path, trains: bool, last_epoch: int) -> bool:
        """Kills it `seconds` after its start, or after its next checkpoint if it `trains`.

        On a machine that has become faster it is killed earlier: as soon as the run has `last_epoch` epochs.

        Returns:
            Whether it still ran.
        """
        before = checkpoint_names(run)
        while trains and checkpoint_names(run) <= before and self.process.poll() is None:
            time.sleep(0.002)
        end = time.monotonic() + seconds
        while time.monotonic() < end and epochs_done(run) < last_epoch and self.process.poll() is None:
            time.sleep(0.002)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        return self.process.returncode == -signal.SIGKILL


def checkpoint_names(run: Path) -> set[str]:
    return {path.name for path in run.glob("checkpoint/0*.npz")}


def epochs_done(run: Path) -> int:
    """The rows of the log below its header."""
    log = run / "metrics.csv"
    return max(0, log.read_text().count("\n") - 1) if log.exists() else 0


def run_with_kills(
    arguments: list[str], run: Path, kills: int, epochs: int, undisturbed: Process, chance: random.Random
) -> None:
    """Kills the program `kills` times, every third time about when it begins to train, and then lets it finish."""
    steps, ends = undisturbed.first_time("accuracy"), undisturbed.lines[-1][0]
    for number in range(kills):
        trains = chance.random() < 2 / 3
        moment = chance.uniform(0, 1.5 * (ends - steps) / kills if trains else steps)
        process = Process(arguments)
        if not process.kill(moment, run, trains, last_epoch=(number + 1) * epochs // (kills + 1)):
            raise SystemExit(f"The run was complete after {number} of {kills} kills. Use more --epochs.")
        resumed = next((line.strip() for _, line in process.lines if "Resum" in line), "It had not resumed yet.")
        moment_text = f"{moment:.3f} s after its {'next checkpoint' if trains else 'start'}"
        print(f"kill {number + 1}: {moment_text}. {resumed}", flush=True)
    Process(arguments).wait()


def differences(first: Path, second: Path) -> list[str]:
    """The differences between two runs: in any bit of the weights, and in the logs."""
    import keras
    import numpy as np

    messages = []
    for name in ("model.keras", "best.keras"):
        weights = [keras.saving.load_model(run / name).get_weights() for run in (first, second)]
        largest = max(float(np.abs(a - b).max()) for a, b in zip(*weights, strict=True))
        same = all(a.tobytes() == b.tobytes() for a, b in zip(*weights, strict=True))
        messages += [] if same else [f"{name}: weights differ by up to {largest:.1e}"]
    logs = [(run / "metrics.csv").read_text() for run in (first, second)]
    return messages + ([] if logs[0] == logs[1] else ["metrics.csv"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, help="epochs of the run; by default 8, and 4 more for each kill")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    epochs = options.epochs or 8 + 4 * options.kills
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        Process(command(directory, "train", "teacher", *TEACHER)).wait()
        student = [*STUDENT, f"--teacher={directory / 'teacher'}", f"--epochs={epochs}"]
        undisturbed = Process(command(directory, "distill", "undisturbed", *student))
        print(f"{epochs} epochs of distillation, undisturbed: {undisturbed.wait():.1f} s.", flush=True)
        again, chance = command(directory, "distill", "killed", *student), random.Random(options.seed)
        run_with_kills(again, directory / "killed", options.kills, epochs, undisturbed, chance)
        messages = differences(directory / "undisturbed", directory / "killed")
    print(f"After {options.kills} kills: {'; '.join(messages) or 'the same weights and logs, bit for bit'}.")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
