"""Tokens: Liu et al. 2019, *Structured Knowledge Distillation for Semantic Segmentation*, 1903.04197, section 3.

The pairwise similarities of that paper, in the form of the local part of version 3 of LightlyTrain's distillation.
"""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import grid_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import as_list, l2_normalize, softened_kl


def tokens_loss(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor], *, temperature: float = 0.07) -> Tensor:
    """KL from the teacher's to the student's distribution of a token's similarity to the other tokens of its image.

    A token x_i is the unit vector of the channels at a position; its distribution is the softmax over j != i of
    x_i . x_j / T. The loss is the mean of KL over the tokens of an image, without a factor T^2; the numbers of channels
    may differ.

    Differs from LightlyTrain's code in not comparing a token with itself. That code does, with the similarity 1 in both
    networks, which takes most of the probability if the tokens differ much: on random maps its loss and gradient are
    several times smaller, on maps of similar tokens nearly the same.

    Args:
        student: a map `(B, H, W, C)` on the teacher's grid, or a list of maps, whose losses are added.
        teacher: the teacher's map, or as many maps.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, at least 0. Memory: O(B (H W)^2).

    >>> import numpy as np
    >>> student, teacher = np.array([[[[1, 0], [1, 0], [0, 1]]]]), np.array([[[[1, 0], [0, 1], [0, 1]]]])
    >>> round(float(tokens_loss(student, teacher, temperature=1.0)[0]), 4)
    0.2311
    """
    return sum(_loss_of_map(*pair, temperature) for pair in zip(as_list(student), as_list(teacher), strict=True))


def _loss_of_map(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return ops.mean(softened_kl(*(_scores(maps, temperature) for maps in (student, teacher))), axis=-1)


def _scores(maps: Tensor, temperature: float) -> Tensor:
    """x_i . x_j / T of the tokens of an image, `(B, H W, H W)`; -1e4 on the diagonal has the probability 0."""
    positions = maps.shape[1] * maps.shape[2]
    tokens = ops.reshape(l2_normalize(maps), (-1, positions, maps.shape[3]))
    scores = ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1))) / temperature
    return ops.where(ops.eye(positions, dtype="bool"), -1e4, scores)


@keras.saving.register_keras_serializable("kd_keras")
class Tokens(TapPairMethod):
    """The positions of the student's map are as similar to each other as those of the teacher's map.

    The student's map first passes a trainable linear layer and a bilinear resize to the teacher's grid. The method is
    meant for images without labels (`Distiller(hard_weight=0)`). With `Queue` it is the combined loss of LightlyTrain's
    version 3: `methods=[Queue(), Tokens()]`, each with a linear layer of its own. The initial values of the layer are
    small and the gradients of unit vectors steep: clip gradients at norm 1, as LightlyTrain does.

    Args:
        temperature: T > 0.
        **options: `student_tap` and `teacher_tap`, by default the last stage; `weight`, by default 1 as in
            LightlyTrain, with `Queue(weight=1)` and without a hard loss (tune it if there is one); `name`.

    >>> Tokens(temperature=0.1).temperature
    0.1
    """

    family = "label-free"
    paper = "Liu et al. 2019, 1903.04197"
    taps = Taps(("stages[-1]",), ("stages[-1]",))
    published_hard_weight = 0.0

    def __init__(self, *, temperature: float = 0.07, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.temperature = check_number("Tokens", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4, sized=False)
        for _, target in pairs:
            if tuple(target.shape[1:3]) == (1, 1):
                expected = f"a teacher map of two positions or more for method {self.name!r}"
                advice = "build the teacher with a larger input_shape, or tap an earlier stage"
                raise ValueError(explain_mismatch(expected, f"{target.layer!r} {target.shape}", advice))
        self.adapters = [grid_adapter(*pair) for pair in pairs]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, teacher_maps = self.tensors(student, teacher)
        adapted = [adapt(maps, training=True) for adapt, maps in zip(self.adapters, student_maps, strict=True)]
        return tokens_loss(adapted, teacher_maps, temperature=self.temperature)
