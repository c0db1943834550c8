"""OFD: Heo et al. 2019, *A Comprehensive Overhaul of Feature Distillation*, 1904.01866, its margin ReLU and
partial L2 distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.methods.adapters import batch_norm, chain, convolution
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, flatten, pooled


def ofd_loss(student: list[Tensor], teacher: list[Tensor], *, margins: list[Tensor]) -> Tensor:
    """The squared distance to max(t, m); a student below that costs nothing where t <= 0.

    (s - t)^2 where t > 0, else max(0, s - max(t, m))^2, summed over positions and channels. The last of n pairs of
    maps weighs 1, each earlier one half of the next.

    Args:
        student: maps s `(B, H, W, C)` before activation, adapted to the teacher's channels; one map alone may come
            without its list.
        teacher: maps t before activation, as many; average-pooled to the student's size.
        margins: for each pair m <= 0 by channel, `(C,)`.

    Returns:
        `(B,)` float32, 0 or more.

    The same as mdistiller's code; MMRazor's agrees but for the layers' weights, and divides by 1000.

    >>> import numpy as np
    >>> float(ofd_loss(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), -9.0), margins=np.full(3, -0.5))[0])
    3.0
    """
    triples = list(zip(as_list(student), as_list(teacher), as_list(margins), strict=True))
    terms = [2.0 ** (i + 1 - len(triples)) * _distance(*triple) for i, triple in enumerate(triples)]
    return sum(terms)


def _distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    student, margin = ops.cast(student, "float32"), ops.cast(margin, "float32")
    teacher = pooled(teacher, student.shape[1:3])
    above = student - ops.maximum(teacher, margin)
    return ops.sum(flatten(ops.square(ops.where(teacher > 0, student - teacher, ops.relu(above)))), axis=-1)


def margins_of(scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """By channel the mean of the negative values of a normal distribution, as BatchNorm gives it before a ReLU.

    m = mu - sigma phi(mu / sigma) / Phi(-mu / sigma), or -3 sigma where no more than one value in 1000 is negative.

    Args:
        scale: `(C,)` BatchNorm's scale, whose size is sigma.
        offset: `(C,)` its offset mu.

    Returns:
        `(C,)` float32, 0 or less.

    >>> margins_of(np.array([1.0, -1.0, 1.0]), np.array([0.0, 0.0, 9.0])).round(4).tolist()
    [-0.7979000210762024, -0.7979000210762024, -3.0]
    """
    return np.array([_margin(abs(float(s)), float(m)) for s, m in zip(scale, offset)], "float32")


def _margin(sigma: float, mu: float) -> float:
    if sigma == 0:  # all values are mu
        return min(mu, 0.0)
    below = 0.5 * math.erfc(mu / sigma / math.sqrt(2))
    if below <= 0.001:
        return -3 * sigma
    return mu - sigma * math.exp(-((mu / sigma) ** 2) / 2) / math.sqrt(2 * math.pi) / below


@keras.saving.register_keras_serializable("kd_keras")
class OFD(TapPairMethod):
    """The student's maps before activation follow the teacher's, as far as the ReLU after them lets through.

    Each of the student's maps goes through a 1x1 convolution and BatchNorm, trained along. The margins come, once, from
    the scale and the offset of the BatchNorm that makes each of the teacher's maps. The teacher runs in inference form,
    as in the authors' code; mdistiller's runs it in training form, which changes its statistics.

    Args:
        student_tap: maps before activation, by default of all stages.
        teacher_tap: the maps that they follow, as many, each of a BatchNorm.
        weight: 1e-3 in the published CIFAR-100 tables, beside a hard loss of 1; 1e-4 for ResNet-50 to MobileNet on
            ImageNet. The loss is a sum over positions and channels, so the weight must be tuned for other maps.
        name: the term's name in the log.

    >>> OFD().weight
    0.001
    """

    family = "features"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages:pre",
        teacher_tap: str | Sequence[str] = "stages:pre",
        weight: Weight = 1e-3,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        norms = [teacher.batch_norms(tap) for tap in self.taps.teacher]
        known = None if None in norms else [margins_of(*norm) for norms_of_tap in norms for norm in norms_of_tap]
        self.adapters = [_adapter(*pair) for pair in pairs]
        self.margins = [
            self.add_weight((theirs.shape[-1],), "zeros", trainable=False, name=f"margin_{i}")
            for i, (_, theirs) in enumerate(pairs)
        ]
        for margin, value in zip(self.margins, known or []):  # from a file they come with the other variables
            margin.assign(value)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = self.tensors(student, teacher)
        adapted = [adapter(one, training=True) for adapter, one in zip(self.adapters, ours)]
        return ofd_loss(adapted, theirs, margins=[ops.convert_to_tensor(margin) for margin in self.margins])


def _adapter(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    # He's values by the width that the convolution gives, as published
    initial = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
    return chain(student, convolution(teacher.shape[-1], kernel_initializer=initial), batch_norm(), name="adapter")
