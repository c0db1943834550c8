"""CWD: Shu et al. 2021, *Channel-wise Knowledge Distillation for Dense Prediction*, 2011.13256, section 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.adapters import aligned
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, resized, softened_kl


def cwd_loss(student: list[Tensor], teacher: list[Tensor], *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p_t || p_s) with p = softmax(x / T) over a channel's positions; its mean over channels, summed over pairs.

    Its mean over the batch is the published sum over everything / (C N). A student's map of another size is resized to
    the teacher's, bilinearly, with half-pixel centres.

    Args:
        student: maps `(B, H, W, C)`; one map alone may come without its list.
        teacher: maps of the same channels, as many.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2, 0 or more.

    >>> import numpy as np
    >>> left, even = np.log([[[[3.0], [1.0]]]]), np.zeros((1, 1, 2, 1))  # (B, H, W, C)
    >>> round(float(cwd_loss(even, left)[0]), 4)  # 3/4 log(3/2) + 1/4 log(1/2)
    0.1308
    """
    pairs = zip(as_list(student), as_list(teacher), strict=True)
    divergences = (softened_kl(*map(_channels, (resized(s, t.shape[1:3]), t)), temperature) for s, t in pairs)
    return temperature**2 * sum(ops.mean(divergence, axis=-1) for divergence in divergences)


def _channels(maps: Tensor) -> Tensor:
    """`(B, C, H W)`"""
    maps = ops.transpose(maps, (0, 3, 1, 2))
    return ops.reshape(maps, (ops.shape(maps)[0], maps.shape[1], -1))


@keras.saving.register_keras_serializable("kd_keras")
class CWD(TapPairMethod):
    """Where in the image each of the student's channels is active follows the teacher's.

    Where widths differ, a trainable 1x1 convolution leads to the teacher's; where sizes differ, the student's map is
    resized to the teacher's. For segmentation both taps may be "logits", of shape (B, H, W, K).

    Args:
        temperature: T > 0; 1 in MMRazor, 4 in the paper.
        student_tap: the maps, by default that of the last stage; the losses of several are summed.
        teacher_tap: what they follow, as many.
        weight: 10 as MMRazor has it for feature maps (every level of a detector's pyramid), beside a hard loss of 1;
            it has 5 for a segmentation network's logits. The paper, with temperature 4, has 50 and 3 for these. The
            1x1 convolution is none of these settings: tune the weight.
        name: the term's name in the log.
    """

    family = "dense"

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        student_tap: str | Sequence[str] = "stages[-1]",
        teacher_tap: str | Sequence[str] = "stages[-1]",
        weight: Weight = 10.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.temperature = check_number("CWD", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.aligned = [aligned(*pair) for pair in self.pairs(student, teacher, rank=4, sized=False)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = self.tensors(student, teacher)
        aligned = [adapter(one, training=True) for adapter, one in zip(self.aligned, ours)]
        return cwd_loss(aligned, theirs, temperature=self.temperature)
