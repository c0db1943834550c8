"""How much memory does a model's forward pass take?"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import keras
import tensorflow as tf

from kd_keras.errors import explain_mismatch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(model: keras.Model, batch_size: int = 32) -> Iterator[tuple[str, float]]:
    """Yields `megabytes` (10^6 bytes): by how much a forward pass of a batch raises a process's resident memory at its
    peak, above what it has after a pass of one image. That is the maps between layers, and the batch's share of what
    its convolutions work with; not the parameters.

    TensorFlow keeps what it has freed, so the model runs in a fresh process, on the CPU; that takes seconds. Yields
    nothing where the system is not Linux, or does not let a process reset its own peak.

    Args:
        model: any built Keras model of one input of known size; it is exported to a temporary directory.
        batch_size: images of that pass.

    Raises:
        ValueError: where the input's size is not known.

    >>> inputs = keras.Input((64, 64, 3))
    >>> outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(64, 1)(inputs))
    >>> 1.0 < dict(memory(keras.Model(inputs, outputs)))["megabytes"] / (32 * 64 * 64 * 64 * 4 / 1e6) < 1.6
    True
    """
    shape = tuple(model.input_shape[1:])
    if None in shape:
        raise ValueError(explain_mismatch("an input of known shape", f"{model.name!r} of {shape}"))
    if not CLEAR.exists():
        return
    with tempfile.TemporaryDirectory() as place:
        model.export(place, format="tf_saved_model", verbose=False)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            growth = pool.submit(peak_growth, place, (batch_size, *shape)).result()
    if growth is not None:
        yield "megabytes", growth / 1e6


def peak_growth(saved_model: str, shape: tuple[int, ...]) -> int | None:
    """The bytes of `memory`, in the process that calls it; `None` where the peak cannot be reset."""
    tf.config.set_visible_devices([], "GPU")
    loaded = tf.saved_model.load(saved_model)  # which holds the variables
    batch = tf.random.stateless_uniform(shape, (0, 0))
    loaded.serve(batch[:1])
    try:
        CLEAR.write_text("5")  # the peak counts from here
    except OSError:
        return None
    before = _resident("VmRSS:")
    loaded.serve(batch)
    return _resident("VmHWM:") - before


def _resident(name: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name))
