"""Measures the mean IoU of a network on test images, also during a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import as_batch
from kd_keras.primitives import resize_bilinear
from kd_keras.tasks.segmentation.counts import check_classes, confusion_of, logits_of, masks_of
from kd_keras.tasks.segmentation.metrics import iou_of
from kd_keras.teacher import Teacher


def measure_iou(predict: Callable[[Any], Any], batches: tf.data.Dataset, classes: int) -> dict[str, float]:
    """`miou` and `pixel_accuracy` of one confusion matrix over all images, as `segmentation_quality` defines them.

    Both are NaN if logits are not finite or no pixel is valid.

    Args:
        predict: from a batch of images to logits `(B, H, W, K)`, which are resized to the masks.
        batches: images with masks, as `data.evaluation` makes them.
        classes: K.

    Raises:
        ValueError: if a mask has other classes.

    >>> batches = tf.data.Dataset.from_tensors((tf.eye(2)[None], tf.constant([[[0, 0], [0, 1]]])))
    >>> measure_iou(lambda images: tf.one_hot(tf.cast(images, tf.int32), 2), batches, 2)["pixel_accuracy"]
    0.75
    """
    missing = dict.fromkeys(("miou", "pixel_accuracy"), float("nan"))
    matrix = np.zeros((classes, classes), "int64")
    for mask, images in masks_of(batches):
        check_classes(mask, classes)
        logits = resize_bilinear(predict(images), mask.shape[1:3])
        if not tf.reduce_all(tf.math.is_finite(logits)):  # the largest of NaN would be class 0
            return missing
        predicted = np.asarray(tf.argmax(logits, -1))
        matrix += sum(confusion_of(*pair, classes) for pair in zip(mask, predicted, strict=True))
    iou, pixels = iou_of(matrix), matrix.sum()
    if not pixels:
        return missing
    return {"miou": float(np.nanmean(iou)), "pixel_accuracy": float(np.trace(matrix) / pixels)}


def iou_function(
    network: keras.Model | Teacher, batches: tf.data.Dataset, classes: int
) -> Callable[[], dict[str, float]]:
    """A function that returns `measure_iou` of a network with its present weights, and compiles it once."""
    predict = logits_of(network, as_batch(batches.element_spec).inputs)
    return lambda: measure_iou(predict, batches, classes)
