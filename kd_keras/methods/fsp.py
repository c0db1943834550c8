"""FSP: Yim, Joo, Bae, Kim 2017, *A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
Transfer Learning*, CVPR 2017, its FSP matrix and loss."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import flatten, pooled_to_common_size


def fsp_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The mean squared difference of the flows from each map to the next, summed over consecutive pairs.

    The flow G from a to b is the mean over positions of a b^T, of every channel of one with every channel of the
    other; the larger map is average-pooled to the smaller before.

    Args:
        student: two or more maps `(B, H, W, C)`, in the network's order.
        teacher: as many maps of the same channels; sizes may be others.

    Returns:
        `(B,)` float32, 0 or more. Memory: B C_a C_b for each consecutive pair.

    Differs from torchdistill, which max-pools and sums the norms of the difference's columns; this is RepDistiller's.

    >>> import numpy as np
    >>> ones, twos = np.ones((1, 4, 4, 3)), np.full((1, 2, 2, 5), 2.0)
    >>> float(fsp_loss([ones, ones], [twos[..., :3], ones])[0])
    1.0
    """
    flows = zip(_flows(student), _flows(teacher), strict=True)
    return sum(ops.mean(flatten(ops.square(ours - theirs)), axis=-1) for ours, theirs in flows)


def _flows(maps: list[Tensor]) -> list[Tensor]:
    """`(B, C_a, C_b)` for each consecutive pair of maps."""
    pairs = [pooled_to_common_size(a, b) for a, b in zip(maps, maps[1:])]
    return [ops.einsum("bhwc,bhwd->bcd", a, b) / (a.shape[1] * a.shape[2]) for a, b in pairs]


@keras.saving.register_keras_serializable("kd_keras")
class FSP(TapPairMethod):
    """The student's change from stage to stage, as products of channels, follows the teacher's.

    Both need the same channels. The published tables train in two stages: 30 epochs of this loss alone, then the hard
    loss alone, which is `FSP(weight={0: 1.0, 30: 0.0})` in a `Distiller(hard_weight={0: 0.0, 30: 1.0})`; their second
    stage then has all its 240 epochs, and begins with a fresh optimizer. They also take the map of the first
    convolution, which here is named before the stages: `student_tap=("stem", "stages")`. Beside the hard loss
    throughout, the weight must be tuned.

    Args:
        student_tap: two or more maps in the network's order, by default all stages.
        teacher_tap: the maps that they follow, as many.
        weight: 1 in the published first stage, beside no hard loss.
        name: the term's name in the log.

    >>> FSP().taps.student
    ('stages',)
    """

    family = "relations"
    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages",
        teacher_tap: str | Sequence[str] = "stages",
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        if len(pairs) < 2:
            (ours, theirs), = pairs
            came = f"student {ours.layer!r} {ours.shape}, teacher {theirs.layer!r} {theirs.shape}"
            raise ValueError(explain_mismatch(f"two or more maps of each for {self.name!r}", came, 'tap "stages"'))
        for ours, theirs in pairs:
            if ours.shape[-1] != theirs.shape[-1]:
                came = f"student {ours.layer!r} {ours.shape}, teacher {theirs.layer!r} {theirs.shape}"
                remedy = "a student as wide as the teacher, or a method with adapters such as FitNet"
                raise ValueError(explain_mismatch(f"maps of the same channels for {self.name!r}", came, remedy))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return fsp_loss(*self.tensors(student, teacher))
