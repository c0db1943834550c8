"""Measures the average precision of a detector on test images, also during a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.evaluation import average_precision
from kd_keras.tasks.detection.predictions import DetectionNetwork, detect_all, detection_function


def precision_function(
    network: DetectionNetwork,
    batches: tf.data.Dataset,
    classes: int,
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[], dict[str, Any]]:
    """A function that measures a detector with its present weights, and compiles it once.

    It returns COCO's metrics, as `evaluation.average_precision` names them, in pixels of the detector's input; NaN if
    there are no objects.

    Args:
        network: the detector.
        batches: images with boxes, as `data.evaluation` makes them.
        classes: K.
        preprocess: a function from the images of the data to those that the detector reads.
    """
    detect = detection_function(network, batches, preprocess)

    def measure() -> dict[str, Any]:
        detections, labels, _ = detect_all(detect, batches)
        missing = dict.fromkeys(("ap", "ap50", "ap75"), float("nan"))
        return missing | dict(average_precision(labels or {}, detections, network.input_shape[1:3], classes))

    return measure
