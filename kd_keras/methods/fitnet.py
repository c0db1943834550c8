"""FitNet: Romero et al. 2015, *FitNets: Hints for Thin Deep Nets*, 1412.6550, equation 3."""

from __future__ import annotations

import keras
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.adapters import hint_regressor
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.networks.taps import split_number
from kd_keras.primitives import as_list, mean_square


def fitnet_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The mean squared difference between the student's (adapted) maps and the teacher's, summed over pairs of maps.

    Args:
        student: maps `(B, H, W, C)`, vectors `(B, D)` or tokens `(B, N, D)`, adapted to the teacher's shapes; a single
            one needs no list.
        teacher: as many of the same shapes.

    Returns:
        `(B,)` float32, at least 0; its mean over the batch is the mean over all elements.

    >>> import numpy as np
    >>> float(fitnet_loss([np.zeros((1, 2, 2, 3))], [np.full((1, 2, 2, 3), 2.0)])[0])
    4.0
    """
    return sum(mean_square(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True))


@keras.saving.register_keras_serializable("kd_keras")
class FitNet(TapPairMethod):
    """One of the student's maps (guided layer), through a trainable regressor, follows one of the teacher's (hint).

    The regressor is a convolution to the teacher's size and width, BatchNorm and ReLU (no ReLU for "stages:pre").
    Vectors `(B, D)`, such as embeddings of faces, and tokens `(B, N, D)` of transformers pass a linear layer instead.
    If the shapes are equal it is the identity, unless `regress_equal` is true, as in the published tables.

    The regressor and the student train together in one stage, as in the published tables. The paper trains the
    regressor first, alone (a first `fit` with `hard_weight=0`). If the two architectures are of different families, the
    result can be worse than without distillation: tune the weight.

    Args:
        regress_equal: whether hints of the same shape as the student's pass a regressor, too.
        **options: `student_tap` and `teacher_tap`, by default the second stage; `weight`, by default 100 as in the
            published CIFAR-100 tables, with a hard loss of 1; `name`.

    >>> FitNet(student_tap="stages[0]", teacher_tap="stages[0]").taps
    Taps(student=('stages[0]',), teacher=('stages[0]',))
    """

    family = "features"
    paper = "Romero et al. 2015, 1412.6550"
    taps = Taps(("stages[1]",), ("stages[1]",))
    default_weight = 100.0

    def __init__(self, *, regress_equal: bool = False, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.regress_equal = regress_equal

    def bind(self, student: Specs, teacher: Specs) -> None:
        is_pre_activation = [  # such a hint has negative values
            split_number(tap)[1].startswith("stages:pre")
            for tap in self.taps.teacher
            for _ in (teacher[tap] if isinstance(teacher[tap], list) else [teacher[tap]])
        ]
        pairs = zip(self.pairs(student, teacher), is_pre_activation, strict=True)
        self.regressors = [
            hint_regressor(*pair, relu=not is_pre, regress_equal=self.regress_equal) for pair, is_pre in pairs
        ]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, hints = self.tensors(student, teacher)
        regressed = [
            regressor(maps, training=True) for regressor, maps in zip(self.regressors, student_maps, strict=True)
        ]
        return fitnet_loss(regressed, hints)
