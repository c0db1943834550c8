"""FitNet: Romero et al. 2015, *FitNets: Hints for Thin Deep Nets*, 1412.6550, equation 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.adapters import regressor
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, mean_square


def fitnet_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The mean squared difference of the student's (adapted) maps and the teacher's, summed over pairs of maps.

    Args:
        student: maps `(B, H, W, C)`, adapted to the teacher's shapes; one map alone may come without its list.
        teacher: maps `(B, H, W, C)`, as many.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the mean over all elements.

    >>> import numpy as np
    >>> float(fitnet_loss([np.zeros((1, 2, 2, 3))], [np.full((1, 2, 2, 3), 2.0)])[0])
    4.0
    """
    return sum(mean_square(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True))


@keras.saving.register_keras_serializable("kd_keras")
class FitNet(TapPairMethod):
    """One of the student's maps, through a trainable regressor, follows one of the teacher's (the hint).

    The regressor is a convolution to the teacher's size and width, BatchNorm and ReLU (none for a hint of
    "stages:pre"); where the shapes agree it is the identity, where some published tables have a regressor too. It
    trains with the student in one stage, as in the published tables; the paper trains it first, alone (a first `fit`
    with `hard_weight=0`). Between architectures of different families the student can fall below one trained alone:
    tune the weight.

    Args:
        student_tap: the map to guide, by default that of the second stage.
        teacher_tap: the hint, by default that of the second stage.
        weight: 100 in the published CIFAR-100 tables, beside a hard loss of 1.
        name: the term's name in the log.
    """

    family = "features"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages[1]",
        teacher_tap: str | Sequence[str] = "stages[1]",
        weight: Weight = 100.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)

    def bind(self, student: Specs, teacher: Specs) -> None:
        before = self.taps.teacher[0].startswith("stages:pre")  # a hint before its activation has negative values
        self.regressors = [regressor(*pair, relu=not before) for pair in self.pairs(student, teacher)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = self.tensors(student, teacher)
        guided = [adapter(one, training=True) for adapter, one in zip(self.regressors, ours)]
        return fitnet_loss(guided, theirs)
