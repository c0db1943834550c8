"""LD: Zheng et al. 2022, *Localization Distillation for Dense Object Detection*, 2102.12252, section 3."""

from __future__ import annotations

import keras
from keras import ops, tree
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.detection.adaptive_matching import match_adaptively, valuable_region
from kd_keras.detection.boxes import convert_boxes
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import describe_pair
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.labels import require_boxes
from kd_keras.models.gfl_head import BoxDistributions
from kd_keras.primitives import softened_kl


def ld_loss(student: Tensor, teacher: Tensor, weight: Tensor, *, temperature: float = 10.0) -> Tensor:
    """The sum over positions i of w_i times the mean over the four edges of T^2 KL(p_t || p_s) / n, p = softmax(z / T).

    Each of a box's four edges is a distribution over n bins of distance, as in Generalized Focal Loss. Dividing by the
    number of bins, while KL itself is a sum, follows the authors' code in mmdet, to which the published weight belongs.

    Args:
        student: logits `(B, N, 4, n)`.
        teacher: logits of the same shape.
        weight: `(B, N)`, w.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2 / n, at least 0.

    >>> import numpy as np
    >>> even = np.zeros((1, 1, 4, 2))  # (B, N, edges, n)
    >>> near = even + np.log([3.0, 1.0])
    >>> round(float(ld_loss(even, near, np.full((1, 1), 0.5), temperature=1.0)[0]), 4)  # (3/4 log(3/2) + ...) / 4
    0.0327
    """
    divergence = temperature**2 * softened_kl(student, teacher, temperature) / student.shape[-1]
    return ops.sum(ops.cast(weight, "float32") * ops.mean(divergence, axis=-1), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class LD(TapPairMethod):
    """The student's distributions of box edges follow the teacher's, at the positions of objects and around them.

    Both detectors must have the same positions and bins, such as two of `models.detector` with `head="gfl"` and the
    same image size and pyramid. Labels are boxes, by which positions are matched with objects as the student's own loss
    matches them. The weight of a position that is responsible for an object is the student's highest score there; in
    the valuable localization region around it, it is the IoU of the position's anchor and the object, times
    `region_weight` / 4. Weights have no gradient.

    The authors' softmax over the classes is not part of this: add BCKD with the taps "class_logits".

    Args:
        temperature: T > 0.
        region_weight: the weight of the valuable localization region, 1 in the authors' code; 0 leaves it out.
        **options: `student_tap` and `teacher_tap`, the class logits and the logits of the edges; `weight`, by default
            0.5, with the detector's own loss; `name`. The authors have 0.25 times the sum over the two images of a
            device; here it is a sum over positions and a mean over images.

    >>> LD(region_weight=0).temperature
    10.0
    """

    family = "dense"
    paper = "Zheng et al. 2022, 2102.12252"
    taps = Taps(("class_logits", "box_logits"), ("class_logits", "box_logits"))
    default_weight = 0.5

    def __init__(self, *, temperature: float = 10.0, region_weight: float = 1.0, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.temperature = check_number("LD", "temperature", temperature, above=0)
        self.region_weight = check_number("LD", "region_weight", region_weight, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher)
        if len(pairs) != 2:
            expected = f"the class logits and the logits of box edges as the taps of method {self.name!r}"
            raise ValueError(explain_mismatch(expected, f"{len(pairs)} taps of each side"))
        logits, edges = pairs
        if edges[0].shape != edges[1].shape or len(edges[0].shape) != 4:
            expected = f"logits (B, N, 4, bins) of the same positions and bins for method {self.name!r}"
            advice = "build both detectors with head='gfl' and the same image size and pyramid"
            raise ValueError(explain_mismatch(expected, describe_pair(*edges), advice))
        if logits[0].shape[:2] != edges[0].shape[:2]:
            expected = f"class logits (B, N, K) of the same positions as the edges for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, f"{logits[0].layer!r} {logits[0].shape}"))
        positions = student.layer(self.taps.student[1])
        if not isinstance(positions, BoxDistributions):
            expected = f"a student with head='gfl', whose layer says where the positions are, for method {self.name!r}"
            raise ValueError(explain_mismatch(expected, f"the layer {edges[0].layer!r}"))
        self._anchors, self._counts = positions.anchors, tuple(positions.counts)
        super().bind(student, teacher)

    def check_batch(self, batch: Batch) -> None:
        require_boxes(self.name, batch.label)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (logits, edges), (_, teacher_edges) = self.tensors(student, teacher)
        boxes, classes = require_boxes(self.name, batch.label)
        boxes = convert_boxes(boxes, "rel_yxyx", "xyxy", tree.flatten(batch.inputs)[0].shape[1:3])
        matched = match_adaptively(self._anchors, self._counts, boxes, classes)
        scores = ops.stop_gradient(ops.max(ops.sigmoid(ops.cast(logits, "float32")), axis=-1))
        weight = ops.where(matched.is_positive, scores, 0.0)
        if self.region_weight:
            region = valuable_region(self._anchors, self._counts, boxes, classes)
            weight = weight + self.region_weight / 4 * region
        return ld_loss(edges, teacher_edges, weight, temperature=self.temperature)
