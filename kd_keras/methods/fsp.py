"""FSP: Yim, Joo, Bae, Kim 2017, *A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
Transfer Learning*, CVPR 2017, its FSP matrix and loss."""

from __future__ import annotations

import itertools

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.adapters import check_map_sequences
from kd_keras.methods.base import Specs, TapPairMethod, Taps
from kd_keras.primitives import flatten, pooled_to_common_size


def fsp_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The mean squared difference of the flow matrices from each map to the next, summed over consecutive pairs.

    The flow G from a to b is the mean over positions of a b^T, every channel of a with every channel of b; the larger
    map is average-pooled to the smaller first.

    Differs from torchdistill, which max-pools and sums the norms of the columns of the difference; this is
    RepDistiller's loss.

    Args:
        student: two or more maps `(B, H, W, C)`, in the order of the network.
        teacher: as many maps with the same numbers of channels; sizes may differ.

    Returns:
        `(B,)` float32, at least 0. Memory: B C_a C_b for each consecutive pair.

    >>> import numpy as np
    >>> ones, twos = np.ones((1, 4, 4, 3)), np.full((1, 2, 2, 5), 2.0)
    >>> float(fsp_loss([ones, ones], [twos[..., :3], ones])[0])
    1.0
    """
    flows = zip(_flows(student), _flows(teacher), strict=True)
    return sum(ops.mean(flatten(ops.square(flow - target)), axis=-1) for flow, target in flows)


def _flows(maps: list[Tensor]) -> list[Tensor]:
    """`(B, C_a, C_b)` for each consecutive pair of maps."""
    pairs = [pooled_to_common_size(*pair) for pair in itertools.pairwise(maps)]
    return [ops.einsum("bhwc,bhwd->bcd", a, b) / (a.shape[1] * a.shape[2]) for a, b in pairs]


@keras.saving.register_keras_serializable("kd_keras")
class FSP(TapPairMethod):
    """The change of the student's maps from stage to stage, as products of channels, follows the teacher's.

    Both networks need the same numbers of channels. The published tables train in two stages: 30 epochs of this loss
    alone, then the hard loss alone. That is `FSP(weight={0: 1.0, 30: 0.0})` in a
    `Distiller(hard_weight={0: 0.0, 30: 1.0})`, except that the published second stage lasts 240 epochs and starts with
    a fresh optimizer. Together with the hard loss, the weight must be tuned.

    Args:
        **options: `student_tap` and `teacher_tap`, by default the stem and all stages as published, in the order of the
            network; `weight`, by default 1 as in the published first stage, without a hard loss; `name`.

    >>> FSP().taps.student
    ('stages:stem',)
    """

    family = "relations"
    paper = "Yim, Joo, Bae, Kim 2017, CVPR"
    taps = Taps(("stages:stem",), ("stages:stem",))
    published_hard_weight = 0.0

    def bind(self, student: Specs, teacher: Specs) -> None:
        check_map_sequences(self.name, self.pairs(student, teacher, rank=4))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return fsp_loss(*self.tensors(student, teacher))
