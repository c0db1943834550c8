"""VID: Ahn et al. 2019, *Variational Information Distillation for Knowledge Transfer*, 1904.05835,
its loss of a Gaussian with a variance a channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import layers, ops

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.adapters import chain, convolution
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, flatten, pooled_to_common_size

LEAST = 1e-5  # what is added to a variance, so that none vanishes


def vid_loss(student: list[Tensor], teacher: list[Tensor], *, variances: list[Tensor]) -> Tensor:
    """The mean over elements of ((mu - t)^2 / sigma^2 + log sigma^2) / 2, summed over pairs of maps.

    That is the negative log-likelihood of the teacher's map under a normal distribution whose mean mu the student
    predicts, up to the constant log(2 pi) / 2.

    Args:
        student: predicted means mu `(B, H, W, C)`; one map alone may come without its list.
        teacher: maps t of the same shapes, as many.
        variances: for each pair sigma^2 > 0 by channel, `(C,)`.

    Returns:
        `(B,)` float32, in nats an element; below 0 where a variance below 1 fits well.

    >>> import numpy as np
    >>> float(vid_loss(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 2.0), variances=np.ones(3))[0])
    2.0
    """
    triples = zip(as_list(student), as_list(teacher), as_list(variances), strict=True)
    return sum(ops.mean(flatten(_surprise(*triple)), axis=-1) for triple in triples)


def _surprise(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    mean, target, variance = (ops.cast(x, "float32") for x in (mean, target, variance))
    return 0.5 * (ops.square(mean - target) / variance + ops.log(variance))


@keras.saving.register_keras_serializable("kd_keras")
class VID(TapPairMethod):
    """The student's maps predict the teacher's: a trainable mean of the student's map, a trainable variance a channel.

    The mean comes from three 1x1 convolutions with ReLU between, the variance is softplus(rho) + 1e-5. Where sizes
    differ, the larger map is average-pooled to the smaller. As in RepDistiller's code rho is trained;
    mdistiller's never reaches the optimizer, so that its variance stays at its first value.

    Args:
        student_tap: maps that predict, by default all stages.
        teacher_tap: maps that are predicted, as many.
        initial_variance: sigma^2 of every channel to begin with, greater than 1e-5.
        weight: 1 in the published CIFAR-100 tables, beside a hard loss of 1.
        name: the term's name in the log.

    >>> VID(initial_variance=2.0).get_config()["initial_variance"]
    2.0
    """

    family = "features"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages",
        teacher_tap: str | Sequence[str] = "stages",
        initial_variance: float = 5.0,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.initial_variance = check_number("VID", "initial_variance", initial_variance, above=LEAST)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        self.means = [_mean(*pair) for pair in pairs]
        above = self.initial_variance - LEAST
        initial = keras.initializers.Constant(above + math.log(-math.expm1(-above)))  # softplus of it is `above`
        widths = [theirs.shape[-1] for _, theirs in pairs]
        self.rhos = [self.add_weight((width,), initial, name=f"rho_{i}") for i, width in enumerate(widths)]
        super().bind(student, teacher)

    def variances(self) -> list[Tensor]:
        """sigma^2 by channel, `(C,)` for each pair."""
        return [ops.softplus(ops.convert_to_tensor(rho)) + LEAST for rho in self.rhos]

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = zip(*(pooled_to_common_size(*pair) for pair in zip(*self.tensors(student, teacher))))
        means = [mean(one, training=True) for mean, one in zip(self.means, ours)]
        return vid_loss(means, theirs, variances=self.variances())


def _mean(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    """Three 1x1 convolutions to the teacher's width, for maps of any size."""
    width, any_size = teacher.shape[-1], TapSpec(student.layer, (None, None, None, student.shape[-1]))
    first, second = layers.ReLU(dtype="float32"), layers.ReLU(dtype="float32")
    return chain(any_size, convolution(width), first, convolution(width), second, convolution(width), name="mean")
