"""Dense: Romero et al. 2015, *FitNets: Hints for Thin Deep Nets*, 1412.6550, equation 3.

In the form of LightlyTrain's distillation, version 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.adapters import to_grid
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, mean_square


def dense_loss(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor]) -> Tensor:
    """The mean squared difference of the student's (adapted) maps and the teacher's, not normalised.

    Args:
        student: a map `(B, H, W, C)`, adapted to the teacher's shape, or a list of maps, whose losses are added.
        teacher: the same of the teacher.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the mean over all elements.

    >>> import numpy as np
    >>> float(dense_loss(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 2.0))[0])
    4.0
    """
    return sum(mean_square(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True))


@keras.saving.register_keras_serializable("kd_keras")
class Dense(TapPairMethod):
    """The student's map, through a trainable linear layer and a bilinear resize to the teacher's grid, follows its map.

    For images without labels (`Distiller(hard_weight=0)`), where the student is meant for detection or segmentation.
    The linear layer is all that adapts, at each position alone, without BatchNorm or ReLU. LightlyTrain's teacher gives
    the maps of its last two blocks side by side; here it is what the tap gives.

    Args:
        student_tap: the map to guide, by default the last.
        teacher_tap: the map that it follows, by default the last.
        weight: 1, alone; the loss grows with the square of the teacher's values, so tune it beside another.
        name: the term's name in the log.
    """

    family = "label-free"
    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages[-1]",
        teacher_tap: str | Sequence[str] = "stages[-1]",
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.adapters = [to_grid(*pair) for pair in self.pairs(student, teacher, rank=4, sized=False)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = self.tensors(student, teacher)
        return dense_loss([adapter(one, training=True) for adapter, one in zip(self.adapters, ours)], theirs)
