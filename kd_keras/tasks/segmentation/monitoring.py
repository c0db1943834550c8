"""The mean IoU of a network on test images, also after each tested epoch of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import as_batch
from kd_keras.primitives import resize_bilinear
from kd_keras.tasks.segmentation.counts import confusion_of, logits_of, masks_of
from kd_keras.tasks.segmentation.metrics import iou_of


def measure_iou(predict: Callable[[Any], Any], batches: tf.data.Dataset, classes: int) -> dict[str, float]:
    """`miou` and `pixel_accuracy` of one confusion matrix over all images, as `segmentation_quality` defines them.

    Args:
        predict: from a batch of images to logits `(B, H, W, K)`, which are resized to the masks.
        batches: images with masks, as `data.evaluation` makes them.
        classes: K.

    >>> batches = tf.data.Dataset.from_tensors((tf.eye(2)[None], tf.constant([[[0, 0], [0, 1]]])))
    >>> measure_iou(lambda images: tf.one_hot(tf.cast(images, tf.int32), 2), batches, 2)["pixel_accuracy"]
    0.75
    """
    matrix = np.zeros((classes, classes), "int64")
    for mask, images in masks_of(batches):
        predicted = np.asarray(tf.argmax(resize_bilinear(predict(images), mask.shape[1:3]), -1))
        matrix += sum(confusion_of(*pair, classes) for pair in zip(mask, predicted, strict=True))
    iou, pixels = iou_of(matrix), matrix.sum()
    if not pixels:
        return {"miou": float("nan"), "pixel_accuracy": float("nan")}
    return {"miou": float(np.nanmean(iou)), "pixel_accuracy": float(np.trace(matrix) / pixels)}


class MeasureIou(keras.callbacks.Callback):
    """Adds the mean IoU of a Distiller's student to the logs of each epoch that has a validation.

    It must come before the callbacks that read the logs.

    Args:
        batches: makes the batches of the validation images.
        classes: K.
    """

    def __init__(self, batches: Callable[[], tf.data.Dataset], classes: int):
        super().__init__()
        self.classes = classes
        self._make_batches = batches
        self._batches: tf.data.Dataset | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or not any(name.startswith("val_") for name in logs):
            return
        if self._batches is None:
            self._batches = self._make_batches()  # which keeps the decoded images
            self._predict = logits_of(self.model.student, as_batch(self._batches.element_spec).inputs)
        found = measure_iou(self._predict, self._batches, self.classes)
        logs.update({f"val_{name}": value for name, value in found.items()})
