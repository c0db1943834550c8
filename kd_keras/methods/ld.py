"""LD: Zheng et al. 2022, *Localization Distillation for Dense Object Detection*, 2102.12252, section 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import softened_kl


def ld_loss(student: Tensor, teacher: Tensor, *, temperature: float = 10.0) -> Tensor:
    """T^2 KL(p_t || p_s) / n, where p = softmax(z / T) over a box's edge's n bins; the mean over an example's edges.

    A box's four edges are each a distribution over bins of distance, as in Generalised Focal Loss. The mean over the
    bins, where KL itself is their sum, is that of the authors' code in mmdet, to which the published weight belongs.

    Differs from that code's head, which takes the mean over the edges of assigned boxes only, each weighed with the
    class score, and over those of a batch instead of an example.

    Args:
        student: logits `(B, ..., bins)`.
        teacher: logits of the same shape.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2 / n, 0 or more.

    >>> import numpy as np
    >>> near, even = np.log([[[3.0, 1.0], [1.0, 1.0]]]), np.zeros((1, 2, 2))  # (B, edges, bins)
    >>> round(float(ld_loss(even, near, temperature=1.0)[0]), 4)  # (3/4 log(3/2) + 1/4 log(1/2) + 0) / 4
    0.0327
    """
    divergence = softened_kl(student, teacher, temperature) / student.shape[-1]
    return temperature**2 * ops.mean(ops.reshape(divergence, (ops.shape(divergence)[0], -1)), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class LD(TapPairMethod):
    """The student's distributions of box edges follow the teacher's.

    Both detectors must have the same places and bins. A tap ends in `bins`, or in a multiple, whose bins lie edge by
    edge, as in a head's map `(B, H, W, 4 * bins)`. All places of an example weigh the same, background too, and
    sample weights weigh examples; to weigh edges or leave some out, write a `Method` around `ld_loss`.

    Args:
        bins: how many bins an edge has; 17 for distances 0 to 16.
        temperature: T > 0.
        student_tap: names of the student's outputs or layers that give the logits; the losses of several are summed.
        teacher_tap: what they follow, as many.
        weight: 0.25 in mmdet, beside the detector's own loss, where it multiplies a mean over assigned boxes alone.
            Tune the weight where the taps hold others too.
        name: the term's name in the log.
    """

    family = "dense"

    def __init__(
        self,
        *,
        bins: int = 17,
        temperature: float = 10.0,
        student_tap: str | Sequence[str] = "boxes",
        teacher_tap: str | Sequence[str] = "boxes",
        weight: Weight = 0.25,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.bins = check_whole_number("LD", "bins", bins, least=2)
        self.temperature = check_number("LD", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        for ours, theirs in self.pairs(student, teacher):
            came = f"student {ours.layer!r} {ours.shape}, teacher {theirs.layer!r} {theirs.shape}"
            if ours.shape != theirs.shape:
                raise ValueError(explain_mismatch("logits of the same places and bins", came, "tap heads of one layout"))
            if not ours.shape[-1] or ours.shape[-1] % self.bins:
                remedy = f"LD(bins=...), which divides {ours.shape[-1]}; a head with 4 edges of 17 bins ends in 68"
                raise ValueError(explain_mismatch(f"logits that end in a multiple of {self.bins} bins", came, remedy))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        pairs = zip(*self.tensors(student, teacher))
        return sum(ld_loss(*map(self._edges, pair), temperature=self.temperature) for pair in pairs)

    def _edges(self, logits: Tensor) -> Tensor:
        return ops.reshape(logits, (ops.shape(logits)[0], -1, self.bins))
