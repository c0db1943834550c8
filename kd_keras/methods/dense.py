"""Dense: Romero et al. 2015, *FitNets: Hints for Thin Deep Nets*, 1412.6550, equation 3.

In the form of version 2 of LightlyTrain's distillation.
"""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_choice
from kd_keras.methods.adapters import grid_adapter, have_equal_tokens, token_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import as_list, l2_normalize, mean_square, smooth_l1


def dense_loss(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor], *, form: str = "mean_square") -> Tensor:
    """The mean squared difference between the student's (adapted) maps and the teacher's, without normalization.

    Or the mean over the positions of 1 - cos of both vectors of channels, or the mean of the smooth L1 distance,
    d^2 / 2 below |d| = 1 and |d| - 1/2 above, which large values of the teacher do not dominate.

    Args:
        student: a map `(B, H, W, C)` or tokens `(B, N, C)`, adapted to the teacher's shape, or a list of them, whose
            losses are added.
        teacher: the teacher's map or tokens, or as many of them.
        form: "mean_square", the published one, "cosine" or "smooth_l1".

    Returns:
        `(B,)` float32, at least 0; its mean over the batch is the mean over all elements.

    >>> import numpy as np
    >>> float(dense_loss(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 2.0))[0])
    4.0
    """
    distance = DISTANCES[check_choice("dense_loss", "form", form, FORMS)]
    return sum(distance(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True))


def _one_minus_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    cosines = ops.sum(l2_normalize(student) * l2_normalize(teacher), axis=-1)
    return ops.mean(1.0 - cosines, axis=tuple(range(1, len(cosines.shape))))


DISTANCES = {"mean_square": mean_square, "cosine": _one_minus_cosine, "smooth_l1": smooth_l1}
FORMS = tuple(DISTANCES)


@keras.saving.register_keras_serializable("kd_keras")
class Dense(TapPairMethod):
    """The student's map, after a trainable linear layer and a bilinear resize to the teacher's grid, follows the
    teacher's map.

    It is meant for images without labels (`Distiller(hard_weight=0)`) and for students that are later used in detection
    or segmentation. Two transformers may be compared at tokens `(B, N, C)` of equal number, such as blocks by their
    path, without a resize. The linear layer, which acts on each position separately, is the whole adapter: no BatchNorm
    and no ReLU. LightlyTrain concatenates the maps of the teacher's last two blocks; here the map is the tap's.

    Args:
        form: "mean_square", "cosine" or "smooth_l1", as `dense_loss`.
        **options: `student_tap` and `teacher_tap`, by default the last stage; `weight`, by default 1 as in
            LightlyTrain, without a hard loss; `name`. The mean square grows with the square of the teacher's values:
            tune the weight if there is another loss.

    >>> Dense().published_hard_weight
    0.0
    """

    family = "label-free"
    paper = "Romero et al. 2015, 1412.6550"
    taps = Taps(("stages[-1]",), ("stages[-1]",))
    published_hard_weight = 0.0

    def __init__(self, *, form: str = "mean_square", **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.form = check_choice("Dense", "form", form, FORMS)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher)
        if all(have_equal_tokens(*pair) for pair in pairs):
            self.adapters = [token_adapter(*pair) for pair in pairs]
        else:
            self.adapters = [grid_adapter(*pair) for pair in self.pairs(student, teacher, rank=4, sized=False)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, teacher_maps = self.tensors(student, teacher)
        adapted = [adapt(maps, training=True) for adapt, maps in zip(self.adapters, student_maps, strict=True)]
        return dense_loss(adapted, teacher_maps, form=self.form)
