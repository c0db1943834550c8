"""The head of RetinaNet: nine anchors at every position, whose boxes are offsets from them.

Lin et al. 2017, *Focal Loss for Dense Object Detection*, 1708.02002, with the GIoU loss or smooth L1 for boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.detection.anchors import PER_POSITION, decode_deltas, make_anchors
from kd_keras.detection.losses import count_positives, focal_loss, giou_loss, smooth_l1_loss
from kd_keras.detection.matching import Targets, match_anchors
from kd_keras.models.detection_model import Detector
from kd_keras.models.feature_pyramid import predict, predict_classes

ANCHOR_SCALE = 4.0
# The loss of the boxes and its weight, with 1 for the focal loss: mmdetection's with GIoU, the paper's with smooth L1.
BOX_LOSSES = {"giou": (giou_loss, 2.0), "smooth_l1": (smooth_l1_loss, 1.0)}


def retinanet_outputs(
    maps: dict[int, Tensor],
    classes: int,
    *,
    width: int,
    depth: int,
    anchor_scale: float,
    box_loss: str,
    whole: bool = False,
) -> dict[str, Tensor]:
    """The outputs of the head for the maps of a pyramid, "class_logits" `(B, N, K)` and "box_deltas" `(B, N, 4)`."""
    class_logits = predict_classes(maps, width, depth, classes, PER_POSITION)
    boxes = predict(maps, width, depth, "box", PER_POSITION * 4)
    rows = [layers.Reshape((-1, 4), name=f"box_deltas_p{level}")(x) for level, x in boxes.items()]
    sizes, strides = [tuple(x.shape[1:3]) for x in maps.values()], [2**level for level in maps]
    return {
        "class_logits": class_logits,
        "box_deltas": AnchorDeltas(sizes, strides, anchor_scale, box_loss, whole, name="box_deltas")(rows),
    }


@keras.saving.register_keras_serializable("kd_keras")
class AnchorDeltas(layers.Layer):
    """The offsets of all levels, `(B, N, 4)` float32, and the anchors that they belong to.

    Args:
        map_sizes: `(H, W)` of each level.
        strides: of each level, in pixels.
        scale: of the anchors, in strides.
        box_loss: one of `BOX_LOSSES`, by which the offsets are trained.
        whole: whether anchors are whole pixels, as KerasHub's are.

    >>> AnchorDeltas([(2, 2)], [8], 4.0).anchors.shape
    (36, 4)
    """

    def __init__(
        self,
        map_sizes: Sequence[Sequence[int]],
        strides: Sequence[int],
        scale: float,
        box_loss: str = "giou",
        whole: bool = False,
        **options: Any,
    ):
        super().__init__(**{**options, "dtype": "float32"})
        self.map_sizes, self.strides = [(int(h), int(w)) for h, w in map_sizes], [int(stride) for stride in strides]
        self.scale, self.box_loss, self.whole = float(scale), box_loss, whole

    @property
    def anchors(self) -> np.ndarray:
        """`(N, 4)` float32, "xyxy" in pixels."""
        return make_anchors(self.map_sizes, self.strides, self.scale, whole=self.whole)

    def match(self, boxes: Tensor, classes: Tensor) -> Targets:
        """The object of each anchor, for boxes `(B, M, 4)`, "xyxy" in pixels, and classes `(B, M)`."""
        return match_anchors(self.anchors, boxes, classes)

    def call(self, levels: list[Tensor]) -> Tensor:
        return ops.concatenate(levels, axis=1)

    def get_config(self) -> dict[str, Any]:
        own = {"map_sizes": self.map_sizes, "strides": self.strides, "scale": self.scale, "box_loss": self.box_loss}
        return {**super().get_config(), **own, "whole": self.whole}


@keras.saving.register_keras_serializable("kd_keras")
class RetinaNet(Detector):
    """A detector with the outputs "class_logits" `(B, N, K)` and "box_deltas" `(B, N, 4)`.

    Its loss is (focal loss + w * loss of the boxes) / the number of positive anchors, with w = 2 for GIoU and 1 for
    smooth L1.

    >>> from kd_keras.models import build
    >>> isinstance(build("detector/resnet8", (16, 16, 3), 2, pyramid=(2,), width=8), RetinaNet)
    True
    """

    @property
    def anchors(self) -> np.ndarray:
        return self.get_layer("box_deltas").anchors

    def match(self, boxes: Tensor, classes: Tensor) -> Targets:
        return self.get_layer("box_deltas").match(boxes, classes)

    def losses_and_counts(self, targets: Targets, outputs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        box_loss, weight = BOX_LOSSES[self.get_layer("box_deltas").box_loss]
        loss = focal_loss(outputs["class_logits"], targets)
        loss = loss + weight * box_loss(outputs["box_deltas"], self.anchors, targets)
        return [(loss, count_positives(targets))]

    def boxes(self, outputs: dict[str, Tensor]) -> Tensor:
        return decode_deltas(outputs["box_deltas"], self.anchors)
