"""AT: Zagoruyko, Komodakis 2017, *Paying More Attention to Attention*, 1612.03928, equation 2."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import as_list, attention, pooled_to_common_size


def at_loss(student: list[Tensor], teacher: list[Tensor], *, power: float = 2.0) -> Tensor:
    """The mean over positions of (Q_s - Q_t)^2, summed over pairs of maps.

    Q is the attention map: the mean over channels of |x|^p at each position, as a unit vector over the positions. The
    larger map of a pair is average-pooled to the smaller; the numbers of channels may differ.

    Differs from equation 2, which takes the norm of Q_s - Q_t: this is the mean square over positions of the authors'
    code, to which the published weight belongs. torchdistill's mode "paper" sums over channels and takes the norm.

    Args:
        student: maps `(B, H, W, C)`; a single map needs no list.
        teacher: as many maps, of any size and width.
        power: p, at least 1.

    Returns:
        `(B,)` float32, from 0 to 2 / (H W) for each pair.

    >>> import numpy as np
    >>> left, right = np.zeros((2, 1, 1, 2, 1))
    >>> left[..., 0, :], right[..., 1, :] = 1, 1
    >>> at_loss(left, right).numpy().tolist()  # (B,): two orthogonal unit vectors over two positions
    [1.0]
    """
    pairs = zip(as_list(student), as_list(teacher), strict=True)
    return sum(_attention_difference(*pooled_to_common_size(*pair), power) for pair in pairs)


def _attention_difference(student: Tensor, teacher: Tensor, power: float) -> Tensor:
    return ops.mean(ops.square(attention(student, power) - attention(teacher, power)), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class AT(TapPairMethod):
    """The student's maps are active at the same positions as the teacher's.

    There are no adapters: widths may differ, and the larger map is average-pooled. The stages are paired in order.

    Args:
        power: p, the exponent of activations before the mean over channels, at least 1.
        **options: `student_tap` and `teacher_tap`, by default all stages; `weight`, by default 1000 as in the published
            CIFAR-100 tables, with a hard loss of 1; `name`. The loss falls with the number of positions: tune the
            weight for maps of other sizes.

    >>> AT(power=1).power
    1.0
    """

    family = "features"
    paper = "Zagoruyko, Komodakis 2017, 1612.03928"
    taps = Taps(("stages",), ("stages",))
    default_weight = 1000.0

    def __init__(self, *, power: float = 2.0, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.power = check_number("AT", "power", power, least=1)  # below 1 the gradient at zero is infinite

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.pairs(student, teacher, rank=4)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return at_loss(*self.tensors(student, teacher), power=self.power)
