"""AB: Heo, Lee, Yun, Choi 2019, *Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
Neurons*, 1811.03233, its piecewise differentiable loss."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.adapters import hint_regressor
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import as_list, flatten


def ab_loss(student: list[Tensor], teacher: list[Tensor], *, margin: float = 1.0) -> Tensor:
    """A squared hinge loss that moves the student's values before activation to the teacher's side of zero.

    max(0, m + s)^2 if the teacher's neuron is off (t <= 0), and max(0, m - s)^2 if it is on, summed over all neurons.
    The last of n pairs of maps has the weight 1, each earlier one half the weight of the next; the sum is multiplied by
    3 / 1000.

    Differs from OpenMMLab's MMRazor, which weights all layers equally; the halves and the 3 / 1000 are RepDistiller's.

    Args:
        student: maps s `(B, H, W, C)` before activation, adapted to the teacher's shapes; a single map needs no list.
        teacher: as many maps t `(B, H, W, C)` before activation; only their signs matter.
        margin: m > 0.

    Returns:
        `(B,)` float32, at least 0.

    >>> import numpy as np
    >>> round(float(ab_loss(np.zeros((1, 2, 2, 5)), np.ones((1, 2, 2, 5)))[0]), 4)
    0.06
    """
    pairs = list(zip(as_list(student), as_list(teacher), strict=True))
    terms = [2.0 ** (i + 1 - len(pairs)) * _squared_hinge(*pair, margin) for i, pair in enumerate(pairs)]
    return 3 / 1000 * sum(terms)


def _squared_hinge(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    student, teacher = ops.cast(student, "float32"), ops.cast(teacher, "float32")
    sign = ops.where(teacher > 0, -1.0, ops.where(teacher <= 0, 1.0, teacher))  # NaN stays NaN
    hinge = ops.relu(margin + sign * student)
    return ops.sum(flatten(ops.square(hinge)), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class AB(TapPairMethod):
    """The student's neurons are on if the teacher's are on, whatever their values.

    Each of the student's maps before activation passes a trainable convolution and BatchNorm to the teacher's shape
    (the identity if the shapes are equal).

    The published tables train in two stages: 30 epochs of this loss alone, then the hard loss alone. That is
    `AB(weight={0: 1.0, 30: 0.0})` in a `Distiller(hard_weight={0: 0.0, 30: 1.0})`, except that the published second
    stage lasts 240 epochs and starts with a fresh optimizer. No table reports this loss together with the hard loss;
    then the weight must be tuned, because the loss is a sum over neurons and grows with the maps.

    Args:
        margin: m > 0.
        **options: `student_tap` and `teacher_tap`, by default all stages before activation; `weight`, by default 1 as
            in the published first stage, without a hard loss; `name`.

    >>> AB(weight={0: 1.0, 30: 0.0}).weight.values
    [(0, 1.0), (30, 0.0)]
    """

    family = "features"
    paper = "Heo, Lee, Yun, Choi 2019, 1811.03233"
    taps = Taps(("stages:pre",), ("stages:pre",))
    published_hard_weight = 0.0

    def __init__(self, *, margin: float = 1.0, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.margin = check_number("AB", "margin", margin, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.connectors = [hint_regressor(*pair, relu=False) for pair in self.pairs(student, teacher, rank=4)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, teacher_maps = self.tensors(student, teacher)
        connected = [connect(maps, training=True) for connect, maps in zip(self.connectors, student_maps, strict=True)]
        return ab_loss(connected, teacher_maps, margin=self.margin)
