"""What does a model cost: parameters, and time for an image?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf


def cost(model: keras.Model, images: np.ndarray, runs: int = 100) -> Iterator[tuple[str, float]]:
    """Yields `parameters` (all variables of the model) and `milliseconds`, the median time of one image alone.

    Args:
        model: any built Keras model of one input.
        images: `(N, ...)` as the model reads them; one after the other is timed.
        runs: how many are timed, after ten that are not.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> dict(cost(model, np.ones((1, 4), "float32"), runs=3))["parameters"]
    15
    """
    yield "parameters", model.count_params()
    forward = tf.function(lambda image: model(image, training=False))
    seconds = []
    for run in range(10 + runs):
        image = tf.constant(images[run % len(images)][None])
        start = time.perf_counter()
        forward(image).numpy()
        seconds.append(time.perf_counter() - start)
    yield "milliseconds", 1000 * float(np.median(seconds[10:]))
