"""What does a model cost: parameters, multiply-accumulates and time?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.evaluation.macs import macs

WARM_UP = 10
BATCH = 32


def cost(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> Iterator[tuple[str, int]]:
    """Yields costs that do not depend on the machine: `parameters`, all variables, and `macs` of one example.

    >>> dict(cost(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])))
    {'parameters': 15, 'macs': 12}
    """
    yield "parameters", model.count_params()
    yield "macs", macs(model, input_shape)


def saved_kilobytes(model: keras.Model) -> float:
    """The size of the `.keras` file of a model, in 1000 bytes.

    >>> saved_kilobytes(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])) > 1
    True
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.keras"
        model.save(path)
        return path.stat().st_size / 1000


def latency(models: Mapping[str, tuple[keras.Model, np.ndarray]], runs: int = 100) -> dict[str, dict[str, float]]:
    """Times models on this machine, one run of each in turn, so that other load affects all of them alike.

    Args:
        models: by name, a built Keras model of one input, and `(N, ...)` examples as it reads them; they are repeated
            if there are fewer than 32.
        runs: the number of timed runs with one example, 100 by default, after 10 that are not timed; a fifth of that,
            at least three, with a batch of 32.

    Returns:
        By name `milliseconds` and `milliseconds_p95`, the median and the 95th percentile of the time for a single
        example, and `milliseconds_32` and `milliseconds_32_p95`, those for a batch of 32.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> sorted(latency({"small": (model, np.ones((1, 4), "float32"))}, runs=3)["small"])
    ['milliseconds', 'milliseconds_32', 'milliseconds_32_p95', 'milliseconds_p95']
    """
    findings: dict[str, dict[str, float]] = {name: {} for name in models}
    calls = {name: tf.function(partial(model, training=False)) for name, (model, _) in models.items()}
    batches = {name: np.resize(examples, (BATCH, *examples.shape[1:])) for name, (_, examples) in models.items()}
    for suffix, size, count in (("", 1, runs), ("_32", BATCH, max(3, runs // 5))):
        inputs = {name: np.split(batch, BATCH // size) for name, batch in batches.items()}
        for name, times in milliseconds(calls, inputs, count).items():
            findings[name][f"milliseconds{suffix}"] = float(np.median(times))
            findings[name][f"milliseconds{suffix}_p95"] = float(np.percentile(times, 95))
    return findings


def milliseconds(
    calls: Mapping[str, Callable[[Any], Any]], inputs: Mapping[str, Sequence[Any]], runs: int
) -> dict[str, list[float]]:
    """The times of `runs` runs of each call, one of each in turn, over its inputs in a cycle, after 10 untimed runs.

    A run ends when its results are in the memory of the host.
    """
    tensors = {name: [tf.constant(value) for value in values] for name, values in inputs.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(WARM_UP + runs):
        for name, forward in calls.items():
            start = time.perf_counter()
            keras.tree.map_structure(np.asarray, forward(tensors[name][run % len(tensors[name])]))
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: values[WARM_UP:] for name, values in times.items()}
