"""Pretraining without labels: nothing to predict; labeled images only measure the quality of the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import as_batch
from kd_keras.data import Source
from kd_keras.evaluation.feature_quality import linear_probe_accuracy, nearest_neighbors_accuracy
from kd_keras.tasks.classification import Classification
from kd_keras.teacher import Teacher


class Pretraining(Classification):
    """Images whose labels, if there are any, are not trained on.

    Args:
        labeled: makes the batches of the labeled images from which the classes of the test images are predicted;
            `None` if there are no test images.
        test: makes the batches of the test images, in the size of the images to train on.

    >>> Pretraining().metric
    'knn'
    """

    metrics = ("knn", "linear_probe")
    is_open_set = True  # the test images have no loss; `callbacks` measures

    def __init__(
        self, labeled: Callable[[], tf.data.Dataset] | None = None, test: Callable[[], tf.data.Dataset] | None = None
    ):
        self.labeled, self.test = labeled, test

    def compile_options(self, has_soft_labels: bool, label_smoothing: float) -> dict[str, Any]:
        return {}

    def callbacks(
        self, test: Source, batches: Callable[[], tf.data.Dataset], epochs: Collection[int]
    ) -> list[keras.callbacks.Callback]:
        return [] if self.labeled is None else [MeasureEmbeddings(self.labeled, self.test or batches, epochs)]

    def measure(self, network: Teacher, test: Source, batches: tf.data.Dataset) -> dict[str, float]:
        return {}


class MeasureEmbeddings(keras.callbacks.Callback):
    """Adds `val_knn` and `val_linear_probe` of a Distiller's student to the logs, after those epochs with a test.

    It must come before the callbacks that read the logs.

    Args:
        labeled: makes the batches of the labeled images, as `data.evaluation`.
        test: makes the batches of the test images.
        epochs: those after which there is a test, counted from 1.
    """

    def __init__(
        self, labeled: Callable[[], tf.data.Dataset], test: Callable[[], tf.data.Dataset], epochs: Collection[int]
    ):
        super().__init__()
        self.epochs = frozenset(epochs)
        self._make_batches = (labeled, test)
        self._batches: list[tf.data.Dataset] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or epoch + 1 not in self.epochs:
            return
        if not self._batches:
            self._batches = [make() for make in self._make_batches]  # which keep the decoded images
            student = self.model.student
            signature = [as_batch(self._batches[0].element_spec).inputs]
            self._embed = tf.function(lambda images: student(images, training=False), input_signature=signature)
        train, test = (embed_all(self._embed, batches) for batches in self._batches)
        logs["val_knn"] = nearest_neighbors_accuracy(*train, *test)
        logs["val_linear_probe"] = linear_probe_accuracy(*train, *test)


def embed_all(embed: Callable[[Any], Any], batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings `(N, D)` and the labels `(N,)` of all images of a dataset of batches."""
    parts = [(np.asarray(embed(batch.inputs)), np.asarray(batch.label)) for batch in map(as_batch, batches)]
    embeddings, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return embeddings, labels
