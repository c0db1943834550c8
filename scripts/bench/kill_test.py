"""Kills a training program at random moments until it is through, and compares it with a run that was left alone.

    python -m scripts.bench.kill_test --kills 20

Every start is the same command. With --deterministic, which it sets, on one device the weights must be the same bit for
bit; the same goes for the log of every epoch. A kill falls at any moment of a process's life, as it starts, steps,
writes a checkpoint or tests; the script fails where the run was through before all kills had fallen.
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
PROGRAM = ["--dataset=digits", "--batch_size=50", "--shift=1", "--optimizer=adam", "--learning_rate=0.003"]
PROGRAM += ["--checkpoint_every=3", "--deterministic", "--strategy=one"]
TEACHER = ["--model=mlp(hidden=(64,))", "--epochs=3"]
STUDENT = ["--student=mlp(hidden=(32,), dropout=0.3)", "--method=kd"]


def command(place: Path, program: str, run: str, *options: str) -> list[str]:
    data = f"--data_dir={place / 'datasets'}"
    return [sys.executable, "-m", f"experiments.{program}", *PROGRAM, data, f"--run={place / run}", *options]


class Life:
    """One process of the program, and the moments at which it said something."""

    def __init__(self, arguments: list[str]):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.begun, self.said = time.monotonic(), []
        self.process = subprocess.Popen(arguments, cwd=ROOT, env=environment, **pipes)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.said.append((time.monotonic() - self.begun, line))

    def when(self, text: str) -> float | None:
        """The seconds after which it said something for the first time."""
        return next((moment for moment, line in list(self.said) if text in line), None)

    def end(self) -> float:
        """Waits for its end, and returns the seconds it lived."""
        if self.process.wait():
            raise SystemExit("The program failed by itself:\n" + "".join(line for _, line in self.said)[-3000:])
        return time.monotonic() - self.begun

    def kill(self, seconds: float, run: Path | None = None) -> bool:
        """Kills it so many seconds after its start, or after its first checkpoint in `run`; whether it still ran."""
        before = saved(run)
        while run and saved(run) <= before and self.process.poll() is None:
            time.sleep(0.002)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        return self.process.returncode == -signal.SIGKILL


def saved(run: Path | None) -> set[str]:
    return {path.name for path in run.glob("checkpoint/0*.npz")} if run else set()


def killed(arguments: list[str], run: Path, kills: int, alone: Life, chance: random.Random) -> None:
    """Kills the program `kills` times, one in three before it has done anything, and then lets it end."""
    steps, ends = alone.when("accuracy"), alone.said[-1][0]
    for number in range(kills):
        trains = chance.random() < 2 / 3
        moment = chance.uniform(0, 1.5 * (ends - steps) / kills if trains else steps)
        life = Life(arguments)
        if not life.kill(moment, run if trains else None):
            raise SystemExit(f"Through after {number} of {kills} kills: give it more --epochs.")
        begun = next((line.strip() for _, line in life.said if "Going on" in line), "Not gone on yet.")
        told = f"{moment:.3f} s after its {'first checkpoint' if trains else 'start'}"
        print(f"kill {number + 1}: {told}. {begun}", flush=True)
    Life(arguments).end()


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two runs: weights, in any bit, and logs."""
    import keras
    import numpy as np

    found = []
    for name in ("model.keras", "best.keras"):
        weights = [keras.saving.load_model(run / name).get_weights() for run in (one, other)]
        largest = max(float(np.abs(a - b).max()) for a, b in zip(*weights, strict=True))
        same = all(a.tobytes() == b.tobytes() for a, b in zip(*weights, strict=True))
        found += [] if same else [f"{name}: weights differ by up to {largest:.1e}"]
    logs = [(run / "metrics.csv").read_text() for run in (one, other)]
    return found + ([] if logs[0] == logs[1] else ["metrics.csv"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, help="of the run; by default 8, and 4 for each kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    epochs = options.epochs or 8 + 4 * options.kills
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        Life(command(place, "train", "teacher", *TEACHER)).end()
        student = [*STUDENT, f"--teacher={place / 'teacher'}", f"--epochs={epochs}"]
        alone = Life(command(place, "distill", "alone", *student))
        print(f"{epochs} epochs of distillation, left alone: {alone.end():.1f} s.", flush=True)
        again, chance = command(place, "distill", "killed", *student), random.Random(options.seed)
        killed(again, place / "killed", options.kills, alone, chance)
        found = differences(place / "alone", place / "killed")
    print(f"After {options.kills} kills: {'; '.join(found) or 'the same weights and logs, bit for bit'}.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
