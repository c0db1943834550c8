"""The average precision of a detector on test images, also after each tested epoch of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor, as_batch
from kd_keras.detection.decoding import Detections
from kd_keras.evaluation import average_precision
from kd_keras.models import Detector
from kd_keras.teacher import prepare_images


def detection_function(
    network: Detector, batches: tf.data.Dataset, preprocess: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Detections]:
    """A compiled function from images to the objects that a detector finds, in pixels of its input.

    Args:
        network: the detector. Images of another size are resized to its own.
        batches: of such images.
        preprocess: a function from the images of the data to those that the detector reads.
    """

    def detect(images: Tensor) -> Detections:
        return network.detect(prepare_images(network, preprocess, images))

    return tf.function(detect, input_signature=[as_batch(batches.element_spec).inputs])


def detect_all(
    detect: Callable[[Tensor], Detections], batches: tf.data.Dataset
) -> tuple[Detections, dict[str, np.ndarray]]:
    """The objects in all images, and the labels of the images.

    Args:
        detect: as `detection_function` makes it.
        batches: `(x, y)` or `x`, as `data.evaluation` makes them.

    Returns:
        The detections as arrays, and "boxes" and "classes"; no labels if there are none.
    """
    found, labels = [], []
    for element in batches:
        batch = as_batch(element)
        found.append([keras.ops.convert_to_numpy(column) for column in detect(batch.inputs)])
        labels.append({} if batch.label is None else {name: np.asarray(column) for name, column in batch.label.items()})
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return Detections(*columns), {name: np.concatenate([label[name] for label in labels]) for name in labels[0]}


def measure_precision(
    detect: Callable[[Tensor], Detections], batches: tf.data.Dataset, size: tuple[int, int], classes: int
) -> dict[str, Any]:
    """COCO's metrics of a detector, as `evaluation.average_precision` names them; NaN if there are no objects.

    Args:
        detect: as `detection_function` makes it.
        batches: images with boxes, as `data.evaluation` makes them.
        size: `(H, W)` of the images in whose pixels the detections are.
        classes: K.
    """
    detections, labels = detect_all(detect, batches)
    missing = dict.fromkeys(("ap", "ap50", "ap75"), float("nan"))
    return missing | dict(average_precision(labels, detections, size, classes))


class MeasurePrecision(keras.callbacks.Callback):
    """Adds the average precision of a Distiller's student to the logs of each epoch that has a validation.

    It must come before the callbacks that read the logs.

    Args:
        batches: makes the batches of the validation images.
        classes: K.
        metrics: which of COCO's metrics; the logs have them as `val_<name>`.
    """

    def __init__(self, batches: Callable[[], tf.data.Dataset], classes: int, metrics: Sequence[str]):
        super().__init__()
        self.classes, self.metrics = classes, tuple(metrics)
        self._make_batches = batches
        self._batches: tf.data.Dataset | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or not any(name.startswith("val_") for name in logs):
            return
        student = self.model.student
        if self._batches is None:
            self._batches = self._make_batches()  # which keeps the decoded images
            self._detect = detection_function(student, self._batches)
        found = measure_precision(self._detect, self._batches, student.input_shape[1:3], self.classes)
        logs.update({f"val_{name}": found[name] for name in self.metrics})
