"""How much memory does a model's forward pass take?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PROGRAM = """
import sys
from kd_keras.evaluation.memory import peak_growth
print(peak_growth(sys.argv[1], tuple(map(int, sys.argv[2:]))))
"""


def memory(
    model: keras.Model, batch_size: int = 32, input_shape: tuple[int, ...] | None = None
) -> Iterator[tuple[str, float]]:
    """Yields `megabytes` (10^6 bytes), the peak memory of a forward pass with a batch.

    It is the increase of the process's resident memory over its value after a pass with one image: the maps between
    layers and the workspace of the convolutions, but not the parameters.

    TensorFlow keeps memory that it has freed, so the model runs in a fresh process, on the CPU, which takes seconds.
    Yields nothing if the system is not Linux or does not let a process reset its own peak.

    Args:
        model: any built Keras model of one input of known size; it is exported to a temporary directory.
        batch_size: images of that pass, 32 by default.
        input_shape: of one image; by default that of the model, which a subclassed one does not have.

    Raises:
        ValueError: if the size of the input is not known.
        OSError: if the process fails.

    >>> inputs = keras.Input((64, 64, 3))
    >>> outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(64, 1)(inputs))
    >>> maps = 32 * 64 * 64 * 64 * 4 / 1e6  # 1/32 of it is already in memory after the pass with one image
    >>> 31 / 32 <= dict(memory(keras.Model(inputs, outputs)))["megabytes"] / maps < 1.6
    True
    """
    shape = tuple(model.input_shape[1:] if input_shape is None else input_shape)
    if None in shape:
        raise ValueError(
            f"Memory is measured with an input of known shape, but {model.name!r} has the input shape {shape}."
        )
    if not CLEAR.exists():
        return
    with tempfile.TemporaryDirectory() as directory:
        model.export(directory, format="tf_saved_model", verbose=False)
        growth = _measure_in_process(directory, (batch_size, *shape))
    if growth is not None:
        yield "megabytes", growth / 1e6


def _measure_in_process(saved_model: str, shape: tuple[int, ...]) -> int | None:
    """Runs `peak_growth` in a fresh process."""
    # Not by multiprocessing, which would run a user's script again if it is not guarded by __name__ == "__main__".
    command = [sys.executable, "-c", PROGRAM, saved_model, *map(str, shape)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise OSError(f"The process that measures memory failed: {result.stderr[-500:]}")
    last = result.stdout.split()[-1]
    return None if last == "None" else int(last)


def peak_growth(saved_model: str, shape: tuple[int, ...]) -> int | None:
    """The bytes that `memory` reports, measured in the process that calls it; `None` if the peak cannot be reset."""
    tf.config.set_visible_devices([], "GPU")
    loaded = tf.saved_model.load(saved_model)  # assigned, because it owns the variables
    batch = tf.random.stateless_uniform(shape, (0, 0))
    loaded.serve(batch[:1])
    try:
        CLEAR.write_text("5")  # resets the peak to the current size
    except OSError:
        return None
    before = _resident_bytes("VmRSS:")
    loaded.serve(batch)
    return _resident_bytes("VmHWM:") - before


def _resident_bytes(name: str) -> int:
    """The value of a line of Linux's status file of this process, in bytes."""
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name))
