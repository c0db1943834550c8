"""A one-stage detector on the stages of any network: a feature pyramid and heads that all levels share.

RetinaNet (Lin et al. 2017, *Focal Loss for Dense Object Detection*, 1708.02002) with separable convolutions, BatchNorm
of momentum 0.9 for each level as in EfficientDet (Tan et al. 2020, 1911.09070), and the GIoU loss for boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.detection.anchors import PER_POSITION, decode_deltas, make_anchors
from kd_keras.detection.boxes import convert_boxes
from kd_keras.detection.decoding import Detections, detect
from kd_keras.detection.losses import PRIOR, count_positives, focal_loss, giou_loss
from kd_keras.detection.matching import Targets, match_anchors
from kd_keras.distribute.reductions import replica_count, sum_over_replicas
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.models.base import batch_norm, convolution, fan_out
from kd_keras.networks.stages import StagedGraph

BOX_WEIGHT = 2.0  # of the GIoU loss beside the focal loss, as in mmdetection's configurations with GIoU


def detector(
    backbone: keras.Model,
    classes: int,
    *,
    pyramid: Sequence[int] = (3, 4, 5),
    width: int = 64,
    depth: int = 2,
    anchor_scale: float = 4.0,
    name: str | None = None,
) -> Detector:
    """Builds a detector on a network's stages, sharing the network's layers.

    Level l of the pyramid has the stride 2^l. A level is made of the last stage of its stride; levels above the
    coarsest stage are made of the level below. The maps of the pyramid are the layers "pyramid_p3", ..., all of
    them the tap "pyramid_p*"; those inside the heads are "class_conv1_p3", ..., "box_conv1_p3", ....

    Args:
        backbone: a Functional classifier with an input of a fixed size, such as any of the zoo; its classifier is not
            used.
        classes: K, at least 1. There is no class for the background.
        pyramid: consecutive levels, such as (2, 3, 4, 5) for small objects.
        width: the number of channels of the pyramid and the heads.
        depth: the number of convolutions of each head before the predictions, at least 1.
        anchor_scale: the side of the smallest square anchor of a level, in strides; 2 suits images below 320 pixels.
        name: the model's name; by default `"detector_"` and the network's.

    Returns:
        A model from images `(B, H, W, C)`, pixel values from 0 to 255, to "class_logits" `(B, N, K)` and "box_deltas"
        `(B, N, 4)`, both float32, for N anchors.

    Raises:
        ValueError: if an argument is out of range, the input has no fixed size, or a level of the pyramid is finer
            than the stages or between two of them.

    >>> from kd_keras.models.resnet import resnet8
    >>> network = detector(resnet8((32, 32, 3), 10), 3, pyramid=(2, 3), width=16)
    >>> network(ops.zeros((2, 32, 32, 3)))["class_logits"].shape  # 9 anchors at 8 x 8 and 4 x 4 positions
    TensorShape([2, 720, 3])
    """
    check_whole_number("detector", "classes", classes)
    check_whole_number("detector", "width", width)
    check_whole_number("detector", "depth", depth)
    check_number("detector", "anchor_scale", anchor_scale, above=0)
    if not pyramid or list(pyramid) != [*range(pyramid[0], pyramid[0] + len(pyramid))]:
        raise ValueError(explain_mismatch("a pyramid of consecutive levels, such as (3, 4, 5)", str(pyramid)))
    graph = StagedGraph(backbone)
    maps = _feature_pyramid(_stages_by_level(graph, backbone), pyramid, width)
    prior = keras.initializers.Constant(-math.log((1 - PRIOR) / PRIOR))
    class_maps = _head(maps, width, depth, "class", PER_POSITION * classes, prior)
    box_maps = _head(maps, width, depth, "box", PER_POSITION * 4, "zeros")
    class_rows = [layers.Reshape((-1, classes), name=f"class_logits_p{level}")(x) for level, x in class_maps.items()]
    box_rows = [layers.Reshape((-1, 4), name=f"box_deltas_p{level}")(x) for level, x in box_maps.items()]
    sizes = [tuple(x.shape[1:3]) for x in maps.values()]
    outputs = {
        "class_logits": layers.Concatenate(axis=1, dtype="float32", name="class_logits")(class_rows),
        "box_deltas": AnchorDeltas(sizes, [2**level for level in maps], anchor_scale, name="box_deltas")(box_rows),
    }
    return Detector(inputs=graph.inputs, outputs=outputs, name=name or f"detector_{backbone.name}")


def _stages_by_level(graph: StagedGraph, backbone: keras.Model) -> dict[int, Tensor]:
    """The last stage of each stride, from fine to coarse."""
    size = backbone.input_shape[1:3] if isinstance(backbone.input_shape, tuple) else None
    if size is None or None in size:
        expected = "a backbone with one input (H, W, C) of a fixed size"
        raise ValueError(explain_mismatch(expected, f"{backbone.name!r} with the input {backbone.input_shape}"))
    stages = [graph.channels_last(stage) for stage in graph.stages()]
    return {round(math.log2(size[0] / stage.shape[1])): stage for stage in stages}


def _feature_pyramid(stages: dict[int, Tensor], pyramid: Sequence[int], width: int) -> dict[int, Tensor]:
    """The map of each level, `(B, h, w, width)`: Lin et al. 2017, *Feature Pyramid Networks*, 1612.03144."""
    coarsest = max(stages)
    missing = [level for level in pyramid if level < coarsest and level not in stages]
    if missing or pyramid[0] > coarsest:
        expected = f"a pyramid that begins at one of the levels {sorted(stages)} of the network's stages"
        advice = "level l has the stride 2^l; choose other levels, or another network or image size"
        raise ValueError(explain_mismatch(expected, f"pyramid={tuple(pyramid)}", advice))
    maps: dict[int, Tensor] = {}
    above = None
    for level in sorted((level for level in pyramid if level in stages), reverse=True):
        x = convolution(stages[level], width, f"fpn_lateral_p{level}_conv", kernel_size=1)
        x = batch_norm(x, f"fpn_lateral_p{level}")
        if above is not None:
            x = layers.Add(name=f"fpn_sum_p{level}")([x, _enlarge(above, x, level)])
        above = x
        maps[level] = batch_norm(_separable(width, f"fpn_p{level}_conv")(x), f"pyramid_p{level}")
    for level in (level for level in pyramid if level > coarsest):
        x = layers.ReLU(name=f"fpn_p{level}_relu")(maps[level - 1])
        x = _separable(width, f"fpn_p{level}_conv", strides=2)(x)
        maps[level] = batch_norm(x, f"pyramid_p{level}")
    return {level: maps[level] for level in pyramid}


def _enlarge(x: Tensor, finer: Tensor, level: int) -> Tensor:
    """A map at the size of the next finer one; an odd size has been rounded up."""
    x = layers.UpSampling2D(2, name=f"fpn_upsample_p{level}")(x)
    excess = [x.shape[axis] - finer.shape[axis] for axis in (1, 2)]
    return layers.Cropping2D([(0, size) for size in excess], name=f"fpn_crop_p{level}")(x) if any(excess) else x


def _head(maps: dict[int, Tensor], width: int, depth: int, name: str, outputs: int, bias: Any) -> dict[int, Tensor]:
    """Predictions `(B, h, w, outputs)` of each level. Convolutions are shared; each level has its own BatchNorm."""
    maps = dict(maps)
    for number in range(1, depth + 1):
        shared = _separable(width, f"{name}_conv{number}")
        for level, x in maps.items():
            x = batch_norm(shared(x), f"{name}_conv{number}_p{level}_bn")
            maps[level] = layers.ReLU(name=f"{name}_conv{number}_p{level}")(x)
    small = keras.initializers.RandomNormal(stddev=0.01)
    options = {"use_bias": True, "bias_initializer": bias, "pointwise_initializer": small}
    shared = _separable(outputs, f"{name}_predictions", **options)
    return {level: shared(x) for level, x in maps.items()}


def _separable(width: int, name: str, **options: Any) -> layers.Layer:
    defaults = {"use_bias": False, "depthwise_initializer": fan_out(), "pointwise_initializer": fan_out()}
    return layers.SeparableConv2D(width, 3, padding="same", name=name, **{**defaults, **options})


@keras.saving.register_keras_serializable("kd_keras")
class AnchorDeltas(layers.Layer):
    """The offsets of all levels, `(B, N, 4)` float32, and the anchors that they belong to.

    Args:
        map_sizes: `(H, W)` of each level.
        strides: of each level, in pixels.
        scale: of the anchors, in strides.

    >>> AnchorDeltas([(2, 2)], [8], 4.0).anchors.shape
    (36, 4)
    """

    def __init__(self, map_sizes: Sequence[Sequence[int]], strides: Sequence[int], scale: float, **options: Any):
        super().__init__(**{**options, "dtype": "float32"})
        self.map_sizes, self.strides = [(int(h), int(w)) for h, w in map_sizes], [int(stride) for stride in strides]
        self.scale = float(scale)

    @property
    def anchors(self) -> np.ndarray:
        """`(N, 4)` float32, "xyxy" in pixels."""
        return make_anchors(self.map_sizes, self.strides, self.scale)

    def call(self, levels: list[Tensor]) -> Tensor:
        return ops.concatenate(levels, axis=1)

    def get_config(self) -> dict[str, Any]:
        own = {"map_sizes": self.map_sizes, "strides": self.strides, "scale": self.scale}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("kd_keras")
class Detector(keras.Model):
    """A model that `detector` built; `compile(optimizer)` and `fit` train it, because it has its own loss.

    Labels are dictionaries of "boxes" `(B, M, 4)`, "rel_yxyx", and "classes" `(B, M)` integer, -1 for a row without an
    object, as `data.load_boxes` gives them.

    >>> from kd_keras.models.resnet import resnet8
    >>> network = detector(resnet8((16, 16, 3), 2), 2, pyramid=(2,), width=8)
    >>> network.detect(ops.zeros((1, 16, 16, 3)), detections=3).boxes.shape
    TensorShape([1, 3, 4])
    """

    @property
    def anchors(self) -> np.ndarray:
        """`(N, 4)` float32, "xyxy" in pixels of the input."""
        return self.get_layer("box_deltas").anchors

    def targets(self, label: dict[str, Tensor]) -> Targets:
        """What the predictions of each anchor should be for some labels."""
        boxes = convert_boxes(label["boxes"], "rel_yxyx", "xyxy", self.input_shape[1:3])
        return match_anchors(self.anchors, boxes, label["classes"])

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """(focal loss + 2 GIoU loss) / the number of positive anchors of the global batch, at least 1: `()` float32.

        As every loss in Keras, it is divided by the number of replicas, and contains the regularization losses.
        """
        targets = self.targets(y)
        loss = focal_loss(y_pred["class_logits"], targets)
        loss = loss + BOX_WEIGHT * giou_loss(y_pred["box_deltas"], self.anchors, targets)
        if sample_weight is not None:
            loss = loss * ops.cast(sample_weight, "float32")
        rows = ops.cast(ops.shape(loss)[0], "float32")
        total = sum_over_replicas(ops.stack([ops.sum(count_positives(targets)), rows]))
        positives = ops.maximum(total[0], 1.0) / total[1]  # for each example
        penalty = sum((ops.sum(ops.cast(value, "float32")) for value in self.losses), ops.zeros(()))
        return (ops.mean(loss) / positives + penalty) / replica_count()

    def detect(self, images: Tensor, **options: Any) -> Detections:
        """The objects in images `(B, H, W, C)`, in pixels of the input.

        Args:
            images: pixel values from 0 to 255.
            **options: of `kd_keras.detection.decoding.detect`.
        """
        return self.decode(self(images, training=False), **options)

    def boxes(self, outputs: dict[str, Tensor]) -> Tensor:
        """The predicted box of each anchor, `(B, N, 4)` float32, "xyxy" in pixels, not clipped to the image."""
        return decode_deltas(outputs["box_deltas"], self.anchors)

    def decode(self, outputs: dict[str, Tensor], **options: Any) -> Detections:
        """The objects that the model's outputs describe; options as for `detect`."""
        return detect(self.boxes(outputs), outputs["class_logits"], size=self.input_shape[1:3], **options)
