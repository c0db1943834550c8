"""AB: Heo, Lee, Yun, Choi 2019, *Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
Neurons*, 1811.03233, its piecewise differentiable loss."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.adapters import regressor
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, flatten


def ab_loss(student: list[Tensor], teacher: list[Tensor], *, margin: float = 1.0) -> Tensor:
    """How far the student's values, before activation, are on the wrong side of zero: as a hinge loss, squared.

    max(0, m + s)^2 where the teacher's neuron is off (t <= 0) and max(0, m - s)^2 where it is on, summed over all
    neurons. The last of n pairs of maps weighs 1, each earlier one half of the next, the sum 3 / 1000.

    Args:
        student: maps s `(B, H, W, C)` before activation, adapted to the teacher's shapes; one map alone may come
            without its list.
        teacher: maps t `(B, H, W, C)` before activation, as many; only their signs matter.
        margin: m > 0.

    Returns:
        `(B,)` float32, 0 or more.

    Differs from OpenMMLab's MMRazor, which weighs all layers alike; the halves and the 3 / 1000 are RepDistiller's.

    >>> import numpy as np
    >>> round(float(ab_loss(np.zeros((1, 2, 2, 5)), np.ones((1, 2, 2, 5)))[0]), 4)
    0.06
    """
    pairs = list(zip(as_list(student), as_list(teacher), strict=True))
    terms = [2.0 ** (i + 1 - len(pairs)) * _wrong_side(*pair, margin) for i, pair in enumerate(pairs)]
    return 3 / 1000 * sum(terms)


def _wrong_side(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    student, teacher = ops.cast(student, "float32"), ops.cast(teacher, "float32")
    hinge = ops.relu(margin + ops.where(teacher > 0, -student, student))
    return ops.sum(flatten(ops.square(hinge)), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class AB(TapPairMethod):
    """The student's neurons are on where the teacher's are, whatever their values.

    Each of the student's maps before activation goes through a convolution and BatchNorm, trained along, to the
    teacher's shape (the identity where shapes agree). The published tables train in two stages: 30 epochs of this loss
    alone, then the hard loss alone, which is `AB(weight={0: 1.0, 30: 0.0})` in a
    `Distiller(hard_weight={0: 0.0, 30: 1.0})`. Their second stage then has all its 240 epochs, and begins with a fresh
    optimizer. Beside the hard loss throughout, which no table reports, the weight must be tuned: the loss is a sum
    over neurons and grows with the maps.

    Args:
        student_tap: maps before activation, by default of all stages.
        teacher_tap: maps before activation that they follow, as many.
        margin: m > 0.
        weight: 1 in the published first stage, beside no hard loss.
        name: the term's name in the log.

    >>> AB(weight={0: 1.0, 30: 0.0}).weight.values
    [(0, 1.0), (30, 0.0)]
    """

    family = "features"
    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages:pre",
        teacher_tap: str | Sequence[str] = "stages:pre",
        margin: float = 1.0,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.margin = check_number("AB", "margin", margin, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.connectors = [regressor(*pair, relu=False) for pair in self.pairs(student, teacher, rank=4)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = self.tensors(student, teacher)
        connected = [connector(one, training=True) for connector, one in zip(self.connectors, ours)]
        return ab_loss(connected, theirs, margin=self.margin)
