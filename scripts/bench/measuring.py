"""What the benches share: steps timed in turns in one process, and the peaks of their memory."""

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


def peak(work: Callable[[], object], looks: int = 1) -> float:
    """The bytes that TensorFlow's allocator has given out at the highest point of some work, beyond those before it, in
    pieces of 256 KB or more; the median of several looks, for which operations run side by side is chance.

    Raises:
        ValueError: where the allocator does not count, as with `TF_ENABLE_ONEDNN_OPTS=0`.
    """
    found = []
    for _ in range(looks):
        gc.collect()
        tf.config.experimental.reset_memory_stats(CPU)
        before = tf.config.experimental.get_memory_info(CPU)["current"]
        work()
        found.append(tf.config.experimental.get_memory_info(CPU)["peak"] - before)
    return float(np.median(found))


def machine() -> str:
    """What was measured on."""
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    load = "/".join(f"{each:.1f}" for each in os.getloadavg())
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, load average {load} at the end; {versions}."
