"""BCKD: Yang et al. 2023, *Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection*,
2308.14286, its binary classification distillation and its IoU-based localization distillation."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.detection.losses import giou_of_deltas
from kd_keras.detection.quality_losses import soft_focal_loss
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import describe_pair
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps


def bckd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """sum_i sum_k |p_t - p_s| BCE(p_s, p_t) with p = sigmoid(z), over the classes k of all positions i.

    A softmax over the classes, as in KD, would be another distribution than that of a detector whose classes have a
    sigmoid each. The weight |p_t - p_s| leaves out the many positions on which both agree; it has a gradient, too. The
    quality focal loss of CrossKD (Wang et al. 2023, 2306.11369) is the same function.

    Args:
        student: logits `(B, ..., K)`.
        teacher: logits of the same shape.

    Returns:
        `(B,)` float32, in nats, at least 0; a sum, as in the authors' code, which divides it by the number of positive
        positions of the batch.

    >>> import numpy as np
    >>> round(float(bckd_loss(np.zeros((1, 2, 1)), np.log([[[3.0], [1.0]]]))[0]), 4)  # (3/4 - 1/2) log 2
    0.1733
    """
    student, teacher = _as_rows(student), _as_rows(teacher)
    return ops.sum(soft_focal_loss(student, ops.sigmoid(teacher)), axis=(1, 2))


def bckd_box_loss(student: Tensor, teacher: Tensor, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """sum_i max_k |p_t - p_s| (1 - GIoU(b_s, b_t)), over the boxes b of all positions i; the weight has no gradient.

    Offsets of the same anchor, as `detection.anchors` encodes them, give the same GIoU whatever the anchor is.

    Args:
        student: offsets (dx, dy, log w, log h) of boxes from their anchors, `(B, N, 4)`.
        teacher: offsets of the same shape, from the same anchors.
        student_logits: `(B, N, K)`.
        teacher_logits: `(B, N, K)`.

    Returns:
        `(B,)` float32, at least 0; a sum like that of `bckd_loss`.

    >>> import numpy as np
    >>> boxes, half = np.zeros((1, 1, 4)), np.log([[[1.0, 1.0, 1.0, 0.5]]])  # half as high: the GIoU is 1/2
    >>> float(bckd_box_loss(half, boxes, np.zeros((1, 1, 1)), np.full((1, 1, 1), np.log(3.0)))[0])  # 1/4 * 1/2
    0.125
    """
    differences = ops.abs(ops.sigmoid(_as_rows(teacher_logits)) - ops.sigmoid(_as_rows(student_logits)))
    weight = ops.stop_gradient(ops.max(differences, axis=-1))
    return ops.sum(weight * (1 - giou_of_deltas(student, teacher)), axis=1)


def _as_rows(logits: Tensor) -> Tensor:
    """`(B, ..., K)` as `(B, N, K)` float32."""
    logits = ops.cast(ops.convert_to_tensor(logits), "float32")
    return ops.reshape(logits, (ops.shape(logits)[0], -1, logits.shape[-1]))


@keras.saving.register_keras_serializable("kd_keras")
class BCKD(TapPairMethod):
    """The student's scores and boxes at every anchor follow the teacher's.

    Both detectors must have the same anchors, such as two of `models.detector` with the same image size, pyramid and
    anchor_scale. The sums over the anchors are divided by the sum over the global batch of the teacher's highest
    probability at each anchor, at least 1: an estimate of the number of positive anchors, by which the authors divide,
    that needs no labels. Sample weights have no effect.

    Args:
        box_weight: the weight of the loss of the boxes, 4 in the authors' code.
        **options: `student_tap` and `teacher_tap`, the class logits and, as a second tap, the offsets of the boxes; if
            there is only one tap, as for heads with box distributions, there is no loss of boxes. `weight`, by default
            1 as in the authors' code, with the detector's own loss; `name`.

    >>> BCKD(student_tap="class_logits", teacher_tap="class_logits").taps.student
    ('class_logits',)
    """

    family = "dense"
    paper = "Yang et al. 2023, 2308.14286"
    taps = Taps(("class_logits", "box_deltas"), ("class_logits", "box_deltas"))
    across_replicas = True  # for the normalizer of the batch
    supports_binary = True

    def __init__(self, *, box_weight: float = 4.0, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.box_weight = check_number("BCKD", "box_weight", box_weight, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher)
        if len(pairs) > 2:
            expected = f"class logits and perhaps box offsets for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, f"{len(pairs)} taps of each side"))
        for number, pair in enumerate(pairs):
            self._check_pair(number, *pair)
        if len(pairs) == 2:
            self._check_anchors(student.layer(self.taps.student[1]), teacher.layer(self.taps.teacher[1]))
        super().bind(student, teacher)

    def _check_pair(self, number: int, student: TapSpec, teacher: TapSpec) -> None:
        received = describe_pair(student, teacher)
        if student.shape != teacher.shape:
            expected = f"predictions of the same anchors and classes for method {self.name!r}"
            advice = "build both detectors with the same image size, pyramid, anchor_scale and classes"
            raise ValueError(explain_mismatch(expected, received, advice))
        if number == 1 and (len(student.shape) != 3 or student.shape[-1] != 4):
            raise ValueError(explain_mismatch(f"box offsets (B, N, 4) for method {self.name!r}", received))

    def _check_anchors(self, student: keras.layers.Layer | None, teacher: keras.layers.Layer | None) -> None:
        """Compares the anchors of the layers of the offsets, if both are known: a recording has none."""
        anchors, teacher_anchors = getattr(student, "anchors", None), getattr(teacher, "anchors", None)
        if anchors is not None and teacher_anchors is not None and not np.allclose(anchors, teacher_anchors, atol=1e-3):
            expected = f"offsets from the same anchors for method {self.name!r}"
            first, teacher_first = anchors[0].tolist(), teacher_anchors[0].tolist()
            received = f"{first} as the first anchor of the student and {teacher_first} of the teacher"
            advice = "build both detectors with the same anchor_scale (and anchors='whole' for a teacher of KerasHub)"
            raise ValueError(explain_mismatch(expected, received, advice))

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (logits, *deltas), (teacher_logits, *teacher_deltas) = self.tensors(student, teacher)
        total = ops.sum(bckd_loss(logits, teacher_logits))
        for boxes, teacher_boxes in zip(deltas, teacher_deltas, strict=True):
            box_loss = bckd_box_loss(boxes, teacher_boxes, logits, teacher_logits)
            total = total + self.box_weight * ops.sum(box_loss)
        confidence = ops.sum(ops.max(ops.sigmoid(_as_rows(teacher_logits)), axis=-1))
        return total / ops.maximum(confidence, 1.0)
