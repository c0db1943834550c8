"""What an exported detector delivers: detections, or the boxes and scores of all anchors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.detection.decoding import Detections, detect
from kd_keras.errors import explain_mismatch
from kd_keras.export.runtimes import load_outputs, output_names
from kd_keras.models import Detector
from kd_keras.networks.precision import computing_in_float32

SCOPE = "postprocess"  # the name scope of everything after the network


class ServedDetector:
    """A detector's detections, in float32, from images of any type with values from 0 to 255.

    With `suppression`, a call returns `{"boxes", "scores", "classes", "count"}` as `Detections` has them: `(B, D, 4)`
    float32, "xyxy" in pixels of the images, `(B, D)` float32, `(B, D)` int32 and `(B,)` int32. Without, it returns
    `{"boxes", "scores"}`: `(B, N, 4)` and `(B, N, K)` float32, the box of each anchor, which may end outside the image,
    and the score of each class, to which the caller applies a non-maximum suppression.

    Args:
        network: the detector.
        suppression: whether non-maximum suppression is inside.
        **options: of `kd_keras.detection.decoding.detect`.

    >>> from kd_keras import models
    >>> network = models.build("detector/resnet8", (16, 16, 3), 2, pyramid=(2,), width=8)
    >>> sorted(ServedDetector(network, suppression=False)(np.zeros((1, 16, 16, 3), "uint8")))
    ['boxes', 'scores']
    """

    def __init__(self, network: Detector, suppression: bool = True, **options: Any):
        self.network, self.suppression, self.options = network, suppression, options

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return Detections._fields if self.suppression else Detections._fields[:2]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with computing_in_float32(self.network):
            outputs = self.network(tf.cast(images, tf.float32), training=False)
        with tf.name_scope(SCOPE):
            if self.suppression:
                return self.network.decode(outputs, **self.options)._asdict()
            scores = tf.sigmoid(tf.cast(outputs["class_logits"], tf.float32))
            return {"boxes": self.network.boxes(outputs), "scores": scores}

    def detections(self, run: Callable[[np.ndarray], dict[str, np.ndarray]], images: np.ndarray) -> Detections:
        """The detections of an export in images, NumPy arrays; without suppression inside, it is done here.

        Args:
            run: from uint8 images to the outputs.
            images: `(n, H, W, C)` uint8, given one by one.
        """
        return _detections(run, self.names, images, self.network.input_shape[1:3], **self.options)


def load_detections(path: str | Path, size: tuple[int, int], **options: Any) -> Callable[[np.ndarray], Detections]:
    """Loads an exported detector with its own runtime, with or without non-maximum suppression inside.

    Args:
        path: a SavedModel directory, a `.tflite` or an `.onnx` file that `export_detector` wrote.
        size: `(H, W)` of its images.
        **options: of `kd_keras.detection.decoding.detect`, for a file without suppression.

    Returns:
        A function from images `(n, H, W, C)` uint8 to `Detections` of NumPy arrays, in pixels of these images.

    Raises:
        ValueError: if it is another kind of file.
    """
    has_suppression = set(Detections._fields) <= set(output_names(path))
    names = Detections._fields if has_suppression else Detections._fields[:2]
    run = load_outputs(path, names)
    return lambda images: _detections(run, names, images, size, **options)


def _detections(
    run: Callable[[np.ndarray], dict[str, np.ndarray]],
    names: Sequence[str],
    images: np.ndarray,
    size: tuple[int, int],
    **options: Any,
) -> Detections:
    rows = [run(image[None]) for image in images]
    outputs = {name: np.concatenate([row[name] for row in rows]) for name in names}
    if not all(np.isfinite(outputs[name]).all() for name in ("boxes", "scores")):
        raise ValueError(explain_mismatch("finite boxes and scores of an exported detector", "NaN or infinity"))
    if len(names) == len(Detections._fields):
        return Detections(**outputs)
    # In float32 the logits of scores near 1 would be so inexact that detections change places.
    probabilities = np.clip(outputs["scores"].astype("float64"), 1e-30, 1 - 2.0**-25)
    logits = np.log(probabilities) - np.log1p(-probabilities)
    return Detections(*map(np.asarray, detect(outputs["boxes"], logits, size=size, **options)))
