"""CrossKD: Wang et al. 2023, *CrossKD: Cross-Head Knowledge Distillation for Object Detection*, 2306.11369."""

from __future__ import annotations

from typing import Literal

import keras
from keras import ops, tree
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.detection.boxes import convert_boxes
from kd_keras.detection.losses import giou_of_deltas
from kd_keras.detection.matching import Targets
from kd_keras.detection.quality_losses import soft_focal_loss
from kd_keras.errors import check_choice, check_number, explain_mismatch
from kd_keras.methods.adapters import describe_pair
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.labels import require_boxes
from kd_keras.networks.taps import split_number
from kd_keras.primitives import root, rounding_of, softened_kl

__all__ = ("align_statistics",)

BOXES = {"retinanet": "box_deltas", "gfl": "box_logits"}
BOX_WEIGHTS = {"retinanet": 1.0, "gfl": 4.0}  # in the authors' configurations


def crosskd_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """sum_i w_i sum_k |p_t - p_s| BCE(p_s, p_t) with p = sigmoid(z), over the classes k of all positions i.

    Args:
        student: logits `(B, N, K)` that the teacher's head makes of the student's features.
        teacher: the teacher's own logits, of the same shape.
        weight: `(B, N)`, 0 for positions that the detector's own loss ignores and 1 for others.

    Returns:
        `(B,)` float32, in nats, at least 0; a sum, to be divided by the number of positive positions of the batch.

    >>> import numpy as np
    >>> round(float(crosskd_loss(np.zeros((1, 2, 1)), np.log([[[3.0], [1.0]]]), np.ones((1, 2)))[0]), 4)
    0.1733
    """
    teacher = ops.sigmoid(ops.cast(ops.convert_to_tensor(teacher), "float32"))
    loss = ops.sum(soft_focal_loss(student, teacher), axis=-1)
    return ops.sum(ops.cast(weight, "float32") * loss, axis=1)


def crosskd_box_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """sum_i w_i (1 - GIoU(b_s, b_t)), over the boxes b of all anchors i, as offsets from the same anchors.

    Args:
        student: offsets (dx, dy, log w, log h), `(B, N, 4)`.
        teacher: offsets of the same shape.
        weight: `(B, N)`, w.

    Returns:
        `(B,)` float32, at least 0; a sum, as `crosskd_loss`.

    >>> import numpy as np
    >>> half = np.log([[[1.0, 1.0, 1.0, 0.5]]])  # half as high: the GIoU is 1/2
    >>> float(crosskd_box_loss(half, np.zeros((1, 1, 4)), np.ones((1, 1)))[0])
    0.5
    """
    return ops.sum(ops.cast(weight, "float32") * (1 - giou_of_deltas(student, teacher)), axis=1)


def crosskd_edge_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """sum_i w_i times the mean over the four edges of KL(p_t || p_s), p = softmax(z) over the bins of an edge.

    Args:
        student: logits `(B, N, 4, bins)`.
        teacher: logits of the same shape.
        weight: `(B, N)`, w.

    Returns:
        `(B,)` float32, in nats, at least 0; a sum, to be divided by the sum of the weights of the batch.

    >>> import numpy as np
    >>> even = np.zeros((1, 1, 4, 2))
    >>> round(float(crosskd_edge_loss(even, even + np.log([3.0, 1.0]), np.ones((1, 1)))[0]), 4)
    0.1308
    """
    return ops.sum(ops.cast(weight, "float32") * ops.mean(softened_kl(student, teacher), axis=-1), axis=1)


def align_statistics(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map with the mean and the sample standard deviation of each of the teacher's channels.

    (f - mean_s) / (std_s + 1e-6) std_t + mean_t, over the batch and all positions.

    Args:
        student: `(B, H, W, C)`.
        teacher: `(B, H, W, C)`.

    >>> import numpy as np
    >>> align_statistics([[[[0.0], [2.0]]]], [[[[5.0], [1.0]]]]).numpy().ravel().round(4).tolist()
    [1.0, 5.0]
    """
    student, teacher = (ops.cast(ops.convert_to_tensor(maps), "float32") for maps in (student, teacher))
    (mean, deviation), (target_mean, target_deviation) = _statistics(student), _statistics(teacher)
    return (student - mean) / (deviation + 1e-6) * target_deviation + target_mean


def _statistics(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel; a constant channel has no gradient of its deviation."""
    freedom = ops.cast(ops.maximum(ops.size(maps) // maps.shape[-1] - 1, 1), "float32")
    mean = ops.mean(maps, axis=(0, 1, 2))
    variance = ops.sum(ops.square(maps - mean), axis=(0, 1, 2)) / freedom
    return mean, root(variance, least=rounding_of(mean))


@keras.saving.register_keras_serializable("kd_keras")
class CrossKD(TapPairMethod):
    """The teacher's head, fed with the student's features, predicts what it predicts for the teacher's features.

    The student's maps inside its heads are given the statistics of the teacher's, and pass the rest of the teacher's
    heads, whose layers stay as they are. The hard loss uses the student's own heads, so that the two losses do not
    compete for the same layers. Heads need the same width, pyramid and image size. Labels are boxes: they say which
    positions are ignored and how many are positive. Sample weights have no effect. It needs a live teacher.

    The sums of the scores are divided by the number of positive positions of the global batch, and so are those of
    boxes with offsets; those of box distributions are divided by their weights, the teacher's highest probabilities.

    Args:
        head: the kind of the heads, as of `models.detector`.
        box_weight: the weight of the loss of the boxes; by default 1 for "retinanet" and 4 for "gfl".
        **options: `student_tap` and `teacher_tap`, by default the maps of all levels after the first convolution of
            both branches, before their activation. In heads of four convolutions the authors take the third. `weight`,
            by default 1 with the detector's own loss; `name`.

    >>> CrossKD(head="gfl").taps.student
    ('class_conv1_p*_bn', 'box_conv1_p*_bn')
    """

    family = "dense"
    paper = "Wang et al. 2023, 2306.11369"
    taps = Taps(("class_conv1_p*_bn", "box_conv1_p*_bn"), ("class_conv1_p*_bn", "box_conv1_p*_bn"))
    across_replicas = True  # for the statistics and the normalizer of the batch

    def __init__(
        self,
        *,
        head: Literal["retinanet", "gfl"] = "retinanet",
        box_weight: float | None = None,
        **options: Unpack[TapPairOptions],
    ):
        super().__init__(**options)
        self.head = check_choice("CrossKD", "head", head, tuple(BOXES))
        self.box_weight = None if box_weight is None else check_number("CrossKD", "box_weight", box_weight, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        sides = [[pair[side] for pair in pairs] for side in (0, 1)]
        # A pattern lists the levels in the order of the graph, which may differ.
        self._orders = tuple(tuple(sorted(range(len(side)), key=lambda i: side[i].layer)) for side in sides)
        for numbers in zip(*self._orders, strict=True):
            specs = [side[number] for side, number in zip(sides, numbers, strict=True)]
            if specs[0].shape != specs[1].shape:
                expected = f"maps of the same size and width inside both heads for method {self.name!r}"
                advice = "build both detectors with the same width, pyramid and image size"
                raise ValueError(explain_mismatch(expected, describe_pair(*specs), advice))
        match = getattr(student.layer(BOXES[self.head]), "match", None)
        if match is None:
            expected = f"a student with head={self.head!r} for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, "a layer without positions", "use models.detector"))
        self._match = match
        teacher_number = split_number(self.taps.teacher[0])[0]
        self._prefix = "" if teacher_number is None else f"{teacher_number}:"
        self._names = tuple(self._prefix + sides[1][number].layer for number in self._orders[1])
        super().bind(student, teacher)

    def check_heads(self, student: Specs, teacher: Specs) -> None:
        super().check_heads(student, teacher)
        heads = tuple(self._prefix + name for name in ("class_logits", BOXES[self.head]))
        self._rest = teacher.between(self._names, heads)  # again for another teacher

    def check_batch(self, batch: Batch) -> None:
        require_boxes(self.name, batch.label)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        if self._rest is None:
            expected = f"the layers of a teacher for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, "only its outputs, from a recording", "use the teacher itself"))
        sides = [
            [maps[number] for number in order]
            for maps, order in zip(self.tensors(student, teacher), self._orders, strict=True)
        ]
        aligned = [align_statistics(*pair) for pair in zip(*sides, strict=True)]
        own, targets = self._rest(aligned), [ops.stop_gradient(x) for x in self._rest(sides[1])]
        boxes, classes = require_boxes(self.name, batch.label)
        boxes = convert_boxes(boxes, "rel_yxyx", "xyxy", tree.flatten(batch.inputs)[0].shape[1:3])
        return self._compare(own, targets, self._match(boxes, classes))

    def _compare(self, own: list[Tensor], targets: list[Tensor], matched: Targets) -> Tensor:
        is_counted = ops.cast(~matched.is_ignored, "float32")
        positives = ops.maximum(ops.sum(ops.cast(matched.is_positive, "float32")), 1.0)
        weight = is_counted * ops.max(ops.sigmoid(ops.cast(targets[0], "float32")), axis=-1)
        is_gfl = self.head == "gfl"
        box_loss = (crosskd_edge_loss if is_gfl else crosskd_box_loss)(own[1], targets[1], weight)
        count = ops.maximum(ops.sum(weight), 1.0) if is_gfl else positives
        box_weight = BOX_WEIGHTS[self.head] if self.box_weight is None else self.box_weight
        scores = ops.sum(crosskd_loss(own[0], targets[0], is_counted)) / positives
        return scores + box_weight * ops.sum(box_loss) / count
