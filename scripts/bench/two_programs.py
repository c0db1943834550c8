"""Starts two training programs at once on one run directory, many times, and checks that nothing is lost.

    python -m scripts.bench.two_programs --pairs 20

The pairs take turns: the same command twice; the same command with two seeds; and the same command twice, where the
program that trains is killed (SIGKILL) and the command is started again. Of every pair one program must train, and the
other one must end with exit code 2 and a message that names the process of the first. Then the weights and the log of
every epoch must be, bit for bit, those of a program that had the directory for itself. Prints a table with a row for
each pair, and fails if anything was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAM = ["--data=digits", "--model=mlp(hidden=(16,))", "--batch_size=100", "--deterministic", "--strategy=one"]
PROGRAM += ["--optimizer=adam", "--learning_rate=0.003", "--checkpoint_every=4", "--test_every=10"]
HEAD = "| pair | kind | seconds apart | exit codes | message of the other program | epochs logged | as alone |"


def start(directory: Path, run: Path, seed: int, epochs: int) -> subprocess.Popen:
    options = [f"--data_dir={directory / 'datasets'}", f"--run={run}", f"--seed={seed}", f"--epochs={epochs}"]
    command = [sys.executable, "-m", "experiments.train", *PROGRAM, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes)


def content(run: Path) -> tuple[str, bytes]:
    """The log of every epoch, and the weights of a complete run."""
    with zipfile.ZipFile(run / "model.keras") as archive:
        return (run / "metrics.csv").read_text(), archive.read("model.weights.h5")


def finish(process: subprocess.Popen) -> tuple[int, str]:
    _, errors = process.communicate(timeout=600)
    errors = [line for line in errors.splitlines() if line.startswith("Error:")]
    return process.returncode, errors[-1] if errors else ""


def kill_when_training(run: Path, pair: list[subprocess.Popen]) -> None:
    """Kills the program of a pair that trains, after its first checkpoint."""
    while len([process for process in pair if process.poll() is None]) > 1 or not list(run.glob("checkpoint/0*.npz")):
        time.sleep(0.01)
    for process in pair:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)


def shorten(message: str) -> str:
    """The part of a message that says who holds the lock."""
    _, found, holder = message.partition("is in use by ")
    return f"in use by {holder.partition(' since')[0]}" if found else message[:60] or "none"


def try_pair(directory: Path, number: int, epochs: int, chance: random.Random, alone: dict[int, tuple]) -> bool:
    """Runs a pair, prints its row, and returns whether nothing was lost."""
    kind = ("same command", "two seeds", "killed")[number % 3]
    run, delay = directory / f"pair{number}", chance.choice([0.0, 0.0, round(chance.uniform(0, 1.5), 1)])
    seeds = (0, 1) if kind == "two seeds" else (0, 0)
    first = start(directory, run, seeds[0], epochs)
    time.sleep(delay)
    second = start(directory, run, seeds[1], epochs)
    if kind == "killed":
        kill_when_training(run, [first, second])
    outcomes = [finish(first), finish(second)]
    codes = [code for code, _ in outcomes]
    refused = [message for code, message in outcomes if code == 2]
    if kind == "killed":
        finish(start(directory, run, 0, epochs))
    seed = seeds[1] if kind == "two seeds" and codes[1] == 0 else seeds[0]
    same = (run / "result.json").exists() and content(run) == alone[seed]
    lines = len((run / "metrics.csv").read_text().splitlines()) - 1
    trained = -signal.SIGKILL if kind == "killed" else 0
    expected = sorted(codes) == sorted((trained, 2)) and len(refused) == 1 and "is in use by process" in refused[0]
    message = shorten(refused[0]) if refused else "none"
    print(f"| {number} | {kind} | {delay} | {codes[0]}, {codes[1]} | {message} | {lines} | {same} |", flush=True)
    return same and expected and not list(run.glob(".writing-*")) and not (run / ".lock").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the times between the two starts")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        directory, alone = Path(name), {}
        for seed in (0, 1)[: arguments.pairs]:
            code, message = finish(start(directory, directory / f"alone{seed}", seed, arguments.epochs))
            if code:
                raise SystemExit(f"The program failed when it was alone: {message}")
            alone[seed] = content(directory / f"alone{seed}")
        print(f"{HEAD}\n|---:|---|---:|---|---|---:|---|")
        lost = [
            number
            for number in range(arguments.pairs)
            if not try_pair(directory, number, arguments.epochs, chance, alone)
        ]
    if lost:
        raise SystemExit(f"Something was lost, or not said, in the pairs {lost}.")
    print(f"\n{arguments.pairs} pairs: nothing was lost.")


if __name__ == "__main__":
    main()
