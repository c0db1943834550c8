"""AT: Zagoruyko, Komodakis 2017, *Paying More Attention to Attention*, 1612.03928, equation 2."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, attention, pooled_to_common_size


def at_loss(student: list[Tensor], teacher: list[Tensor], *, power: float = 2.0) -> Tensor:
    """The mean over positions of (Q_s - Q_t)^2, summed over pairs of maps.

    Q is a map's attention: the mean over channels of |x|^p at each position, as a unit vector over the positions. The
    larger map of a pair is average-pooled to the smaller; the channels may differ.

    Differs from equation 2, which takes the norm of Q_s - Q_t: this is the mean square over positions of the authors'
    code, to which the published weight belongs. torchdistill's mode "paper" sums over channels and takes the norm.

    Args:
        student: maps `(B, H, W, C)`; one map alone may come without its list.
        teacher: maps, as many, of any size and width.
        power: p, 1 or more.

    Returns:
        `(B,)` float32, from 0 to 2 / (H W) for each pair.

    >>> import numpy as np
    >>> here, there = np.zeros((2, 1, 1, 2, 1))
    >>> here[..., 0, :], there[..., 1, :] = 1, 1
    >>> at_loss(here, there).numpy().tolist()  # (B,): two unit vectors at right angles, over two positions
    [1.0]
    """
    return sum(_between(*pooled_to_common_size(s, t), power) for s, t in zip(as_list(student), as_list(teacher), strict=True))


def _between(student: Tensor, teacher: Tensor, power: float) -> Tensor:
    return ops.mean(ops.square(attention(student, power) - attention(teacher, power)), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class AT(TapPairMethod):
    """Where the student's maps are active follows where the teacher's are.

    It has no adapters: widths may differ, and the larger map is average-pooled. The stages are paired in order.

    Args:
        power: p, to which activations are raised before their mean over channels, 1 or more.
        student_tap: the student's maps, by default those of all stages.
        teacher_tap: the teacher's maps, as many.
        weight: 1000 in the published CIFAR-100 tables, beside a hard loss of 1. The loss falls with the number of
            positions: tune the weight for maps of other sizes.
        name: the term's name in the log.
    """

    family = "features"

    def __init__(
        self,
        *,
        power: float = 2.0,
        student_tap: str | Sequence[str] = "stages",
        teacher_tap: str | Sequence[str] = "stages",
        weight: Weight = 1000.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.power = check_number("AT", "power", power)
        if self.power < 1:
            raise ValueError(explain_mismatch("AT(power=...) of 1 or more", repr(power), "below 1 zeros have no gradient"))

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher, rank=4)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return at_loss(*self.tensors(student, teacher), power=self.power)
