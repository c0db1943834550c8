"""The anchor-free head of GFL: at every position scores that predict the quality of a box, and four distributions of
its edges.

Li et al. 2020, *Generalized Focal Loss*, 2006.04388, with the assignment of ATSS (Zhang et al. 2020, 1912.02424) and
the constants of mmdetection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.detection.adaptive_matching import match_adaptively
from kd_keras.detection.boxes import giou, iou
from kd_keras.detection.distributions import BINS, boxes_at, distances_of, expected_distances, square_anchors
from kd_keras.detection.losses import count_positives
from kd_keras.detection.matching import Targets
from kd_keras.detection.quality_losses import distribution_focal_loss, quality_focal_loss
from kd_keras.models.detection_model import Detector
from kd_keras.models.feature_pyramid import predict, predict_classes

ANCHOR_SCALE = 8.0
GIOU_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.25


def gfl_outputs(
    maps: dict[int, Tensor], classes: int, *, width: int, depth: int, anchor_scale: float
) -> dict[str, Tensor]:
    """The outputs of the head for a pyramid's maps, "class_logits" `(B, N, K)` and "box_logits" `(B, N, 4, 17)`."""
    class_logits = predict_classes(maps, width, depth, classes, 1)
    boxes = predict(maps, width, depth, "box", 4 * BINS)
    rows = [layers.Reshape((-1, 4, BINS), name=f"box_logits_p{level}")(x) for level, x in boxes.items()]
    sizes, strides = [tuple(x.shape[1:3]) for x in maps.values()], [2**level for level in maps]
    return {
        "class_logits": class_logits,
        "box_logits": BoxDistributions(sizes, strides, anchor_scale, name="box_logits")(rows),
    }


@keras.saving.register_keras_serializable("kd_keras")
class BoxDistributions(layers.Layer):
    """The logits of the edges' distributions of all levels, `(B, N, 4, bins)` float32, and the positions that they
    belong to; edges are left, upper, right, lower. Each level has a trainable factor, 1 at first.

    Args:
        map_sizes: `(H, W)` of each level.
        strides: of each level, in pixels.
        scale: the width of the square at each position by which it is matched with objects, in strides.

    >>> BoxDistributions([(2, 2)], [8], 8.0).anchors.shape
    (4, 4)
    """

    def __init__(self, map_sizes: Sequence[Sequence[int]], strides: Sequence[int], scale: float, **options: Any):
        super().__init__(**{**options, "dtype": "float32"})
        self.map_sizes, self.strides = [(int(h), int(w)) for h, w in map_sizes], [int(stride) for stride in strides]
        self.scale = float(scale)

    @property
    def counts(self) -> list[int]:
        """The number of positions of each level."""
        return [height * width for height, width in self.map_sizes]

    @property
    def anchors(self) -> np.ndarray:
        """The square of each position, `(N, 4)` float32, "xyxy" in pixels."""
        return square_anchors(self.map_sizes, self.strides, self.scale)

    @property
    def centers(self) -> np.ndarray:
        """`(N, 2)` float32, x and y in pixels."""
        return (self.anchors[:, :2] + self.anchors[:, 2:]) / 2

    @property
    def position_strides(self) -> np.ndarray:
        """The stride of each position, `(N, 1)` float32, in pixels."""
        return np.repeat(np.array(self.strides, "float32"), self.counts)[:, None]

    def match(self, boxes: Tensor, classes: Tensor) -> Targets:
        """The object of each position, for boxes `(B, M, 4)`, "xyxy" in pixels, and classes `(B, M)`."""
        return match_adaptively(self.anchors, self.counts, boxes, classes)

    def build(self, shapes: list[tuple]) -> None:
        self.factors = self.add_weight(name="factors", shape=(len(self.strides),), initializer="ones")

    def call(self, levels: list[Tensor]) -> Tensor:
        scaled = [ops.cast(x, "float32") * self.factors[number] for number, x in enumerate(levels)]
        return ops.concatenate(scaled, axis=1)

    def get_config(self) -> dict[str, Any]:
        own = {"map_sizes": self.map_sizes, "strides": self.strides, "scale": self.scale}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("kd_keras")
class GFL(Detector):
    """A detector with the outputs "class_logits" `(B, N, K)` and "box_logits" `(B, N, 4, 17)`.

    Its loss is the quality focal loss (beta = 2) divided by the number of positive positions, plus the sum over these
    of w (2 (1 - GIoU) + 1/4 DFL) divided by the sum of w, with w the highest score of a position and DFL the mean over
    the four edges. Scores and IoUs that are weights or targets have no gradient.

    >>> from kd_keras.models import build
    >>> network = build("detector/resnet8", (16, 16, 3), 2, head="gfl", pyramid=(2,), width=8)
    >>> network(ops.zeros((1, 16, 16, 3)))["box_logits"].shape
    TensorShape([1, 16, 4, 17])
    """

    @property
    def positions(self) -> BoxDistributions:
        """The layer with the positions of the predictions."""
        return self.get_layer("box_logits")

    @property
    def anchors(self) -> np.ndarray:
        return self.positions.anchors

    def match(self, boxes: Tensor, classes: Tensor) -> Targets:
        return self.positions.match(boxes, classes)

    def losses_and_counts(self, targets: Targets, outputs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        logits, positives = outputs["class_logits"], targets.is_positive
        boxes = self.boxes(outputs)
        quality = ops.stop_gradient(iou(boxes, targets.boxes))
        scores = ops.max(ops.sigmoid(ops.cast(logits, "float32")), axis=-1)
        weight = ops.where(positives, ops.stop_gradient(scores), 0.0)
        distances = distances_of(targets.boxes, self.positions.centers, self.positions.position_strides)
        edges = ops.mean(distribution_focal_loss(outputs["box_logits"], distances), axis=-1)
        box_losses = GIOU_WEIGHT * (1 - giou(boxes, targets.boxes)) + DISTRIBUTION_WEIGHT * edges
        return [
            (quality_focal_loss(logits, targets, quality), count_positives(targets)),
            (ops.sum(weight * ops.where(positives, box_losses, 0.0), axis=1), ops.sum(weight, axis=1)),
        ]

    def boxes(self, outputs: dict[str, Tensor]) -> Tensor:
        distances = expected_distances(outputs["box_logits"])
        return boxes_at(distances, self.positions.centers, self.positions.position_strides)
