"""Metrics of a student on the test images of a training, which Keras cannot compute in a step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class MeasureStudent(keras.callbacks.Callback):
    """Adds metrics of a Distiller's student to the logs, after those epochs that have a test.

    It must come before the callbacks that read the logs.

    Args:
        batches: makes the batches of the test images.
        measuring: from the student and these batches, a function that returns metrics by name. It is made once, so that
            it can compile the student.
        metrics: which of them; the logs have them as `val_<name>`.
        epochs: those after which there is a test, counted from 1.
    """

    def __init__(
        self,
        batches: Callable[[], tf.data.Dataset],
        measuring: Callable[[Any, tf.data.Dataset], Callable[[], Mapping[str, float]]],
        metrics: Collection[str],
        epochs: Collection[int],
    ):
        super().__init__()
        self.metrics, self.epochs = tuple(metrics), frozenset(epochs)
        self._make_batches, self._measuring = batches, measuring
        self._measure: Callable[[], Mapping[str, float]] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or epoch + 1 not in self.epochs:
            return
        if self._measure is None:  # the batches keep the decoded images
            self._measure = self._measuring(self.model.student, self._make_batches())
        values = self._measure()
        logs.update({f"val_{name}": values[name] for name in self.metrics})


def batch_arrays(images: np.ndarray, labels: Any) -> tf.data.Dataset:
    """Batches `(x, y)` of images `(N, H, W, C)`, as float32 pixel values, and their labels `(N, ...)`.

    >>> batch_arrays(np.zeros((2, 4, 4, 3), "uint8"), np.zeros(2)).element_spec[0].dtype
    tf.float32
    """
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
    return batches.map(lambda pixels, label: (tf.cast(pixels, tf.float32), label))
