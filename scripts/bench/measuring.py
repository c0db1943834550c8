"""What the measurements share: steps timed in turns in one process, and the peaks of their memory."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

CPU = "CPU:0"
Run = Callable[[int], list[float]]  # runs some steps, and returns the seconds of each


class Times(NamedTuple):
    """The times of one contestant, in seconds.

    Args:
        first: its first run.
        rounds: the median step of every round.
        fastest: the fastest step.
        processor: processor time per step of every round, which other programs on the machine disturb least.
    """

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
        """Seconds of every step but the first, which also makes the iterator."""
        return np.diff(self.ends).tolist()


def fitting(model: keras.Model, batch: tuple) -> Run:
    """Steps of the `fit` of a compiled model on one batch."""
    dataset = tf.data.Dataset.from_tensors(batch).repeat().prefetch(2)

    def run(steps: int) -> list[float]:
        times = StepTimes()
        model.fit(dataset, steps_per_epoch=steps + 1, verbose=0, callbacks=[times])
        return times.seconds()

    return run


def looping(step: Callable, batch: tuple) -> Run:
    """Steps of a function in a hand-written loop, over the same kind of dataset."""
    dataset = tf.data.Dataset.from_tensors(batch).repeat().prefetch(2)

    def run(steps: int) -> list[float]:
        ends = []
        for data in dataset.take(steps + 1):
            step(*data)
            ends.append(time.perf_counter())
        return np.diff(ends).tolist()

    return run


def in_turns(runs: Mapping[str, Run], rounds: int, steps: int) -> dict[str, Times]:
    """Rounds of steps of every contestant, one contestant after the other, in alternating order."""
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


def ratio(rounds: list[float], reference: list[float]) -> tuple[float, float, float]:
    """The median of the rounds' ratios and their quartiles."""
    return tuple(np.quantile(np.array(rounds) / np.array(reference), [0.5, 0.25, 0.75]).tolist())


def peak(work: Callable[[], object], looks: int = 1) -> float:
    """The peak of the bytes that TensorFlow's allocator hands out during some work, beyond those from before it.

    The allocator counts pieces of 256 KB or more. The result is the median of several looks, because it depends on
    chance which operations run at the same time.

    Raises:
        ValueError: if the allocator does not count. Set `TF_ENABLE_ONEDNN_OPTS=1`, the default on some processors only.
    """
    peaks = []
    for _ in range(looks):
        gc.collect()
        tf.config.experimental.reset_memory_stats(CPU)
        before = tf.config.experimental.get_memory_info(CPU)["current"]
        work()
        peaks.append(tf.config.experimental.get_memory_info(CPU)["peak"] - before)
    return float(np.median(peaks))


def machine() -> str:
    """The machine and the versions, as one sentence."""
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    load = "/".join(f"{average:.1f}" for average in os.getloadavg())
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, load average {load} at the end; {versions}."
