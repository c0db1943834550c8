"""OFD: Heo et al. 2019, *A Comprehensive Overhaul of Feature Distillation*, 1904.01866, its margin ReLU and
partial L2 distance."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.methods.adapters import batch_norm, chain, conv
from kd_keras.methods.base import Specs, TapPairMethod, Taps
from kd_keras.primitives import as_list, average_pool_to, flatten


def ofd_loss(student: list[Tensor], teacher: list[Tensor], *, margins: list[Tensor]) -> Tensor:
    """The squared distance to max(t, m), except that a student below the target costs nothing if t <= 0.

    (s - t)^2 if t > 0, else max(0, s - max(t, m))^2, summed over positions and channels. The last of n pairs of maps
    has the weight 1, each earlier one half the weight of the next.

    The same as mdistiller's code. MMRazor's differs in the weights of the layers and divides by 1000.

    Args:
        student: maps s `(B, H, W, C)` before activation, adapted to the teacher's channels; a single map needs no list.
        teacher: as many maps t before activation; they are average-pooled to the student's sizes.
        margins: for each pair, m <= 0 per channel, `(C,)`.

    Returns:
        `(B,)` float32, at least 0.

    >>> import numpy as np
    >>> float(ofd_loss(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), -9.0), margins=np.full(3, -0.5))[0])
    3.0
    """
    triples = list(zip(as_list(student), as_list(teacher), as_list(margins), strict=True))
    return sum(2.0 ** (i + 1 - len(triples)) * _partial_distance(*triple) for i, triple in enumerate(triples))


def _partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    student, margin = ops.cast(student, "float32"), ops.cast(margin, "float32")
    teacher = average_pool_to(teacher, student.shape[1:3])
    excess = ops.relu(student - ops.maximum(teacher, margin))
    return ops.sum(flatten(ops.square(ops.where(teacher > 0, student - teacher, excess))), axis=-1)


def expected_margins(scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Per channel, the mean of the negative values of the normal distribution that BatchNorm gives before a ReLU.

    m = mu - sigma phi(mu / sigma) / Phi(-mu / sigma), or -3 sigma if at most one value in 1000 is negative.

    Args:
        scale: `(C,)`, the scale of BatchNorm, whose absolute value is sigma.
        offset: `(C,)`, the offset mu of BatchNorm.

    Returns:
        `(C,)` float32, at most 0.

    >>> expected_margins(np.array([1.0, -1.0, 1.0]), np.array([0.0, 0.0, 9.0])).round(4).tolist()
    [-0.7979000210762024, -0.7979000210762024, -3.0]
    """
    pairs = zip(scale, offset, strict=True)
    return np.array([_expected_margin(abs(float(sigma)), float(mu)) for sigma, mu in pairs], "float32")


def _expected_margin(sigma: float, mu: float) -> float:
    if sigma == 0:  # all values are mu
        return min(mu, 0.0)
    negative = 0.5 * math.erfc(mu / sigma / math.sqrt(2))  # the probability of a negative value
    if negative <= 0.001:
        return -3 * sigma
    return mu - sigma * math.exp(-((mu / sigma) ** 2) / 2) / math.sqrt(2 * math.pi) / negative


@keras.saving.register_keras_serializable("kd_keras")
class OFD(TapPairMethod):
    """The student's maps before activation follow the teacher's, as far as the ReLU after them passes the values.

    Each of the student's maps passes a trainable 1x1 convolution and BatchNorm. The margins are computed once, from the
    scale and the offset of the BatchNorm that makes each of the teacher's maps. The authors' code, and mdistiller's,
    run the teacher in training mode, so that its BatchNorm uses the statistics of each batch. Here the teacher runs in
    inference mode; `networks.with_batch_statistics(teacher)` makes the published teacher, unchanged by
    training.

    Args:
        **options: `student_tap` and `teacher_tap`, by default all stages before activation, each made by a BatchNorm in
            the teacher; `weight`, by default 1e-3 as in the published CIFAR-100 tables, with a hard loss of 1; `name`.
            ResNet-50 to MobileNet on ImageNet uses 1e-4. The loss is a sum over positions and channels: tune the weight
            for other maps.

    >>> OFD().weight
    0.001
    """

    family = "features"
    paper = "Heo et al. 2019, 1904.01866"
    taps = Taps(("stages:pre",), ("stages:pre",))
    default_weight = 1e-3

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        norms = [teacher.batch_norms(tap) for tap in self.taps.teacher]
        known = [expected_margins(*norm) for norms_of_tap in norms for norm in norms_of_tap or ()]
        self.adapters = [_build_adapter(*pair) for pair in pairs]
        self.margins = [
            self.add_weight((target.shape[-1],), "zeros", trainable=False, name=f"margin_{i}")
            for i, (_, target) in enumerate(pairs)
        ]
        if None not in norms:  # otherwise the values are loaded from the weights file
            for margin, value in zip(self.margins, known, strict=True):
                margin.assign(value)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, teacher_maps = self.tensors(student, teacher)
        adapted = [adapt(maps, training=True) for adapt, maps in zip(self.adapters, student_maps, strict=True)]
        return ofd_loss(adapted, teacher_maps, margins=[ops.convert_to_tensor(margin) for margin in self.margins])


def _build_adapter(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    # He initialization by the number of output channels, as published
    initializer = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
    return chain(student, conv(teacher.shape[-1], kernel_initializer=initializer), batch_norm(), name="adapter")
