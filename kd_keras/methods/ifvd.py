"""IFVD: Wang et al. 2020, *Intra-class Feature Variation Distillation for Semantic Segmentation*, ECCV, section 3.2."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.positions import classes_at
from kd_keras.primitives import l2_normalize, resize_bilinear


def ifvd_loss(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    """(M_s - M_t)^2 at each position p, M = cos(f(p), c) with c the mean feature of p's class in the image; equation 4.

    A student's map of another size is resized to the teacher's. At a position without a class M is 1 for both.

    Args:
        student: a map `(B, H, W, C)`.
        teacher: a map `(B, H', W', C')`.
        label: the class of each position of the teacher's map, `(B, H', W')` integers, negative if it has none.

    Returns:
        `(B, H', W')` float32, from 0 to 4; its mean is the published loss, which counts positions without a class.

    >>> import numpy as np
    >>> student = np.array([[[[1.0, 0.0], [1.0, 0.0]]]])
    >>> teacher = np.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # a cosine of 0.7071 with the prototype (1/2, 1/2)
    >>> ifvd_loss(student, teacher, np.array([[[0, 0]]])).numpy().round(4).tolist()
    [[[0.08579999953508377, 0.08579999953508377]]]
    """
    student = resize_bilinear(student, teacher.shape[1:3])
    count = teacher.shape[1] * teacher.shape[2]
    label = ops.reshape(ops.cast(label, "int32"), (-1, count))
    # Two positions share a prototype if they have one class; a position without a class is its own.
    same = ops.logical_and(label[:, :, None] == label[:, None, :], label[:, :, None] >= 0)
    same = ops.cast(ops.logical_or(same, ops.eye(count, dtype="bool")), "float32")
    similarities = [_to_prototypes(maps, same) for maps in (student, teacher)]
    return ops.reshape(ops.square(similarities[0] - similarities[1]), (-1, *teacher.shape[1:3]))


def _to_prototypes(maps: Tensor, same: Tensor) -> Tensor:
    """The cosine of each position's feature and its prototype, `(B, P)`; the length of a prototype has no effect."""
    features = ops.reshape(ops.cast(maps, "float32"), (-1, same.shape[1], maps.shape[-1]))
    prototypes = ops.matmul(same, features) / ops.sum(same, axis=-1, keepdims=True)
    return ops.sum(l2_normalize(features) * l2_normalize(prototypes), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class IFVD(TapPairMethod):
    """How far each position is from the prototype of its class follows the teacher.

    Labels must be masks `(B, H, W)`, which are resized to the map by nearest neighbor with half-pixel centers (the
    authors' code: without the half), or one class for each image, which then has one prototype. The mean is over the
    positions that have a class; the authors' code divides by all. The widths of the maps may differ. Memory: O(B P^2)
    for P positions of the teacher's map.

    Args:
        **options: `student_tap` and `teacher_tap`, by default the last stage; `weight`, by default 200 as in the
            authors' code (20 in CIRKD's comparison), with a hard loss of 1 and KD on the logits; `name`.

    >>> IFVD().weight
    200.0
    """

    family = "dense"
    paper = "Wang et al. 2020, ECCV"
    taps = Taps(("stages[-1]",), ("stages[-1]",))
    default_weight = 200.0

    def __init__(self, **options: Unpack[TapPairOptions]):
        super().__init__(**options)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pair(student, teacher, rank=4)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (maps,), (teacher_maps,) = self.tensors(student, teacher)
        return ifvd_loss(maps, teacher_maps, classes_at(batch.label, teacher_maps, self.name))
