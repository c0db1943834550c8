"""What the benches share: steps timed in turns in one process, peaks of memory in processes of their own."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

PLAIN_MEMORY = {"TF_ENABLE_ONEDNN_OPTS": "0"}  # without oneDNN there is no pool of memory on a CPU
Run = Callable[[int], list[float]]  # makes some steps, and returns the seconds of each


class Times(NamedTuple):
    """Of one contestant: seconds of its first run, the median step of every round, the fastest step, and seconds of
    processor time a step, which other programs on the machine disturb least, in every round."""

    first: float
    rounds: list[float]
    fastest: float
    processor: list[float]


class StepTimes(keras.callbacks.Callback):
    """Seconds from the end of one step of `fit` to the end of the next, with all that Keras does between them."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of every step but the first, which makes the iterator too."""
        return np.diff(self.ends).tolist()


def fitting(model: keras.Model, batch: tuple) -> Run:
    """Steps of a compiled model's own `fit` on one batch."""
    dataset = tf.data.Dataset.from_tensors(batch).repeat().prefetch(2)

    def run(steps: int) -> list[float]:
        times = StepTimes()
        model.fit(dataset, steps_per_epoch=steps + 1, verbose=0, callbacks=[times])
        return times.seconds()

    return run


def looping(step: Callable, batch: tuple) -> Run:
    """Steps of a function in a loop written by hand, over the same kind of dataset."""
    dataset = tf.data.Dataset.from_tensors(batch).repeat().prefetch(2)

    def run(steps: int) -> list[float]:
        ends = []
        for data in dataset.take(steps + 1):
            step(*data)
            ends.append(time.perf_counter())
        return np.diff(ends).tolist()

    return run


def in_turns(runs: Mapping[str, Run], rounds: int, steps: int) -> dict[str, Times]:
    """Some rounds of steps of every contestant, one after the other, in turns."""
    first: dict[str, float] = {}
    for name, run in runs.items():
        begun = time.perf_counter()
        run(1)
        first[name] = time.perf_counter() - begun
    medians, fastest, processor = ({name: [] for name in runs} for _ in range(3))
    for number in range(rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            begun = time.process_time()
            seconds = runs[name](steps)
            processor[name].append((time.process_time() - begun) / (steps + 1))  # the first step is not timed
            medians[name].append(float(np.median(seconds)))
            fastest[name].append(min(seconds))
    return {name: Times(first[name], medians[name], min(fastest[name]), processor[name]) for name in runs}


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """The median of the rounds' ratios and their quartiles."""
    return tuple(np.quantile(np.array(ours) / np.array(theirs), [0.5, 0.25, 0.75]).tolist())


def resident() -> int:
    """The bytes of memory that this process has now."""
    with open("/proc/self/statm") as line:
        return int(line.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(work: Callable[[], object]) -> int:
    """By how many bytes this process grows at the highest point of some work, looked at every half millisecond.

    Only with `PLAIN_MEMORY` in the environment: otherwise TensorFlow keeps what it once had, and asks for more in
    doubling pieces.
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not hide what is asked for now
    before, highest, done = resident(), 0, threading.Event()

    def look() -> None:
        nonlocal highest
        while not done.wait(0.0005):
            highest = max(highest, resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(0, highest - before)


def in_a_process(module: str, *arguments: str) -> str:
    """What a program of this package prints last, run by itself with `PLAIN_MEMORY`."""
    command = [sys.executable, "-m", module, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **PLAIN_MEMORY})
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return ran.stdout.strip().splitlines()[-1]


def machine() -> str:
    """What was measured on."""
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    load = "/".join(f"{each:.1f}" for each in os.getloadavg())
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, load average {load} at the end; {versions}."
