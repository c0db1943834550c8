"""MGD: Yang et al. 2022, *Masked Generative Distillation*, 2205.01529, its loss of the generated map."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers, ops

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import aligned, chain, convolution
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, mean_square, pooled_to_common_size


def mgd_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The mean squared difference of the maps generated from the student's and the teacher's, summed over pairs.

    Args:
        student: generated maps `(B, H, W, C)`; one map alone may come without its list.
        teacher: maps of the same shapes, as many.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the mean over all elements.

    Differs from the authors' and MMRazor's code, which sum over positions and channels and therefore weigh by 1e-4 to
    1e-7; the mean, which does not grow with the map, is NVIDIA ModelOpt's.

    >>> import numpy as np
    >>> float(mgd_loss(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 2.0))[0])
    4.0
    """
    return sum(mean_square(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True))


@keras.saving.register_keras_serializable("kd_keras")
class MGD(TapPairMethod):
    """From the student's map, of which random positions are masked, a generator makes the teacher's.

    The student's map goes through a 1x1 convolution where channels differ, then a mask that is drawn anew at every
    step, the same for all channels, then a convolution 3x3, ReLU, and another; all are trained along. Sizes should
    agree; else the larger map is average-pooled to the smaller. Under several replicas each draws masks for its own
    examples. For classifiers the authors' code masks 15 % of the channels instead (with a weight of 7e-5 for the sum);
    this is the form for detection and of the other two implementations.

    Args:
        student_tap: the map to mask, by default that of the last stage; for detection the maps of the pyramid.
        teacher_tap: the map to generate.
        mask_ratio: the share of positions that are masked, from 0 to below 1.
        seed: of the masks; `None` for one of Keras's.
        weight: 1 in ModelOpt's code, beside a hard loss of 1. The published weights belong to a sum over C H W
            elements: 2e-5 for RetinaNet, 5e-7 for Faster R-CNN, here times C H W. To be tuned.
        name: the term's name in the log.

    Raises:
        ValueError: where the ratio is none.

    >>> MGD(mask_ratio=0.5, seed=1).mask(ops.ones((2, 8, 8, 3))).shape
    TensorShape([2, 8, 8, 1])
    """

    family = "dense"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages[-1]",
        teacher_tap: str | Sequence[str] = "stages[-1]",
        mask_ratio: float = 0.65,
        seed: int | None = None,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.mask_ratio = check_number("MGD", "mask_ratio", mask_ratio)
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(explain_mismatch("MGD(mask_ratio=...) from 0 to below 1", repr(mask_ratio)))
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise TypeError(explain_mismatch("MGD(seed=...) as an integer or None", repr(seed)))
        self.seed = seed
        self.masks = keras.random.SeedGenerator(seed)
        self.drawn = self.masks.state  # a weight of this layer, so that a file of weights has it

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        self.aligners = [aligned(_any_size(ours), theirs, use_bias=True) for ours, theirs in pairs]
        self.generators = [_generator(theirs) for _, theirs in pairs]
        super().bind(student, teacher)

    def mask(self, maps: Tensor) -> Tensor:
        """`(B, H, W, 1)`: 0 at the masked positions of maps `(B, H, W, C)`, 1 elsewhere."""
        shape = (ops.shape(maps)[0], *maps.shape[1:3], 1)
        return ops.cast(keras.random.uniform(shape, dtype="float32", seed=self.masks) >= self.mask_ratio, "float32")

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = zip(*(pooled_to_common_size(*pair) for pair in zip(*self.tensors(student, teacher))))
        maps = [aligner(one, training=True) for aligner, one in zip(self.aligners, ours)]
        masked = [one * self.mask(one) for one in maps]
        return mgd_loss([generate(one, training=True) for generate, one in zip(self.generators, masked)], theirs)


def _generator(teacher: TapSpec) -> keras.layers.Layer:
    first, second = (convolution(teacher.shape[-1], 3, use_bias=True) for _ in range(2))
    return chain(_any_size(teacher), first, layers.ReLU(dtype="float32"), second, name="generator")


def _any_size(spec: TapSpec) -> TapSpec:
    return TapSpec(spec.layer, (None, None, None, spec.shape[-1]))
