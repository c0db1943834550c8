"""What all one-stage detectors have in common: a loss of their own and the decoding of their predictions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.detection.boxes import convert_boxes
from kd_keras.detection.decoding import Detections, detect
from kd_keras.detection.matching import Targets
from kd_keras.distribute.reductions import replica_count, sum_over_replicas


class Detector(keras.Model):
    """A model that `detector` built; `compile(optimizer)` and `fit` train it, because it has its own loss.

    Labels are dictionaries of "boxes" `(B, M, 4)`, "rel_yxyx", and "classes" `(B, M)` integer, -1 for a row without an
    object, as `data.load_boxes` gives them.

    A subclass for each kind of head says how anchors are matched, which losses there are, and what boxes its
    predictions mean.

    >>> from kd_keras.models import build
    >>> network = build("detector/resnet8", (16, 16, 3), 2, pyramid=(2,), width=8)
    >>> network.detect(ops.zeros((1, 16, 16, 3)), detections=3).boxes.shape
    TensorShape([1, 3, 4])
    """

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return int(self.output["class_logits"].shape[-1])

    @property
    def anchors(self) -> np.ndarray:
        """`(N, 4)` float32, "xyxy" in pixels of the input."""
        raise NotImplementedError(f"{type(self).__name__} does not define anchors.")

    def match(self, boxes: Tensor, classes: Tensor) -> Targets:
        """What the predictions of each anchor should be for objects with boxes `(B, M, 4)`, "xyxy" in pixels."""
        raise NotImplementedError(f"{type(self).__name__} does not define match(boxes, classes).")

    def losses_and_counts(self, targets: Targets, outputs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The parts of the loss, each a sum for each example, `(B,)`, and what it counts, `(B,)` float32.

        A part is divided by the count of the global batch, at least 1.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define losses_and_counts(targets, outputs).")

    def boxes(self, outputs: dict[str, Tensor]) -> Tensor:
        """The predicted box of each anchor, `(B, N, 4)` float32, "xyxy" in pixels, not clipped to the image."""
        raise NotImplementedError(f"{type(self).__name__} does not define boxes(outputs).")

    def targets(self, label: dict[str, Tensor]) -> Targets:
        """What the predictions of each anchor should be for some labels."""
        boxes = convert_boxes(label["boxes"], "rel_yxyx", "xyxy", self.input_shape[1:3])
        return self.match(boxes, label["classes"])

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The sum of the parts, each divided by its count of the global batch, at least 1: `()` float32.

        As every loss in Keras, it is divided by the number of replicas, and contains the regularization losses.
        """
        parts = self.losses_and_counts(self.targets(y), y_pred)
        rows = ops.cast(ops.shape(parts[0][0])[0], "float32")
        total = sum_over_replicas(ops.stack([*(ops.sum(count) for _, count in parts), rows]))
        loss = ops.zeros(())
        for number, (values, _) in enumerate(parts):
            if sample_weight is not None:
                values = values * ops.cast(sample_weight, "float32")
            loss = loss + ops.mean(values) * total[-1] / ops.maximum(total[number], 1.0)  # the count for each example
        penalty = sum((ops.sum(ops.cast(value, "float32")) for value in self.losses), ops.zeros(()))
        return (loss + penalty) / replica_count()

    def detect(self, images: Tensor, **options: Any) -> Detections:
        """The objects in images `(B, H, W, C)`, in pixels of the input.

        Args:
            images: pixel values from 0 to 255.
            **options: of `kd_keras.detection.decoding.detect`.
        """
        return self.decode(self(images, training=False), **options)

    def decode(self, outputs: dict[str, Tensor], **options: Any) -> Detections:
        """The objects that the model's outputs describe; options as for `detect`."""
        return detect(self.boxes(outputs), outputs["class_logits"], size=self.input_shape[1:3], **options)
