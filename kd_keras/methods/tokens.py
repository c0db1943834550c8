"""Tokens: Liu et al. 2019, *Structured Knowledge Distillation for Semantic Segmentation*, 1903.04197, section 3.

Their pairwise similarities, in the form of LightlyTrain's distillation, the local part of version 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import to_grid
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, l2_normalize, softened_kl


def tokens_loss(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor], *, temperature: float = 0.07) -> Tensor:
    """KL of the teacher's to the student's distribution of a token's similarity to the other tokens of its image.

    A token x_i is the unit vector of a position's channels, its distribution softmax over j != i of x_i . x_j / T. The
    loss is the mean of KL over an image's tokens; the numbers of channels may differ. There is no T^2.

    Differs from LightlyTrain's code in that a token is not compared with itself. There it is, with the similarity 1 in
    both networks, which takes most of the probability where tokens differ much: on random maps that loss and its
    gradient are several times smaller, on maps of similar tokens nearly the same.

    Args:
        student: a map `(B, H, W, C)` on the teacher's grid, or a list of maps, whose losses are added.
        teacher: the same of the teacher.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, 0 or more. Memory: O(B (H W)^2).

    >>> import numpy as np
    >>> student, teacher = np.array([[[[1, 0], [1, 0], [0, 1]]]]), np.array([[[[1, 0], [0, 1], [0, 1]]]])
    >>> round(float(tokens_loss(student, teacher, temperature=1.0)[0]), 4)
    0.2311
    """
    return sum(_one_map(*pair, temperature) for pair in zip(as_list(student), as_list(teacher), strict=True))


def _one_map(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return ops.mean(softened_kl(*(_scores(maps, temperature) for maps in (student, teacher))), axis=-1)


def _scores(maps: Tensor, temperature: float) -> Tensor:
    """x_i . x_j / T of an image's tokens, `(B, H W, H W)`; the diagonal's -1e4 has the probability 0."""
    positions = maps.shape[1] * maps.shape[2]
    tokens = ops.reshape(l2_normalize(maps), (-1, positions, maps.shape[3]))
    scores = ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1))) / temperature
    return ops.where(ops.eye(positions, dtype="bool"), -1e4, scores)


@keras.saving.register_keras_serializable("kd_keras")
class Tokens(TapPairMethod):
    """The positions of the student's map are as similar to each other as those of the teacher's map.

    The student's map first goes through a trainable linear layer of its own and a bilinear resize to the teacher's
    grid. For images without labels (`Distiller(hard_weight=0)`); with `Queue` it is the combined loss of LightlyTrain's
    version 3: `methods=[Queue(), Tokens()]`, each with a linear layer of its own. The layer's values are small at first
    and the unit vectors' gradients steep: clip the gradient's norm at 1, as LightlyTrain does.

    Args:
        temperature: T > 0.
        student_tap: the map to guide, by default the last.
        teacher_tap: the map that it follows, by default the last.
        weight: 1, beside `Queue` with 1; tune it beside a hard loss.
        name: the term's name in the log.
    """

    family = "label-free"
    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        student_tap: str | Sequence[str] = "stages[-1]",
        teacher_tap: str | Sequence[str] = "stages[-1]",
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.temperature = check_number("Tokens", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4, sized=False)
        for _, theirs in pairs:
            if tuple(theirs.shape[1:3]) == (1, 1):
                remedy = "build the teacher with a larger input_shape, or tap an earlier stage"
                raise ValueError(explain_mismatch("a map of two positions or more", f"{theirs.layer!r} {theirs.shape}", remedy))
        self.adapters = [to_grid(*pair) for pair in pairs]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = self.tensors(student, teacher)
        adapted = [adapter(one, training=True) for adapter, one in zip(self.adapters, ours)]
        return tokens_loss(adapted, theirs, temperature=self.temperature)
