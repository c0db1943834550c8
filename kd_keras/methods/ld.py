"""LD: Zheng et al. 2022, *Localization Distillation for Dense Object Detection*, 2102.12252, section 3."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.methods.adapters import describe_pair
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import softened_kl


def ld_loss(student: Tensor, teacher: Tensor, *, temperature: float = 10.0) -> Tensor:
    """T^2 KL(p_t || p_s) / n with p = softmax(z / T) over the n bins of a box edge; the mean over an example's edges.

    Each of a box's four edges is a distribution over bins of distance, as in Generalized Focal Loss. Dividing by the
    number of bins, while KL itself is a sum, follows the authors' code in mmdet, to which the published weight belongs.

    Differs from the head of that code, which averages over the edges of assigned boxes only, each weighted by the class
    score, and over those of a batch instead of an example.

    Args:
        student: logits `(B, ..., bins)`.
        teacher: logits of the same shape.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2 / n, at least 0.

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

    Both detectors must have the same positions and bins. The last axis of a tap is `bins`, or a multiple, with the bins
    of one edge next to each other, as in a head's map `(B, H, W, 4 * bins)`. All positions of an example have the same
    weight, including the background; sample weights are weights of examples. To weight edges or omit some, write a
    `Method` around `ld_loss`.

    Args:
        bins: the number of bins of an edge; 17 for distances from 0 to 16.
        temperature: T > 0.
        **options: `student_tap` and `teacher_tap`, by default "boxes", the outputs or layers with the logits, summed
            over several; `weight`, by default 0.25 as in mmdet, with the detector's own loss; `name`. In mmdet it
            multiplies a mean over assigned boxes only: tune it if the taps contain others.

    >>> LD(bins=8, student_tap="head", teacher_tap="head").bins
    8
    """

    family = "dense"
    paper = "Zheng et al. 2022, 2102.12252"
    taps = Taps(("boxes",), ("boxes",))
    default_weight = 0.25

    def __init__(self, *, bins: int = 17, temperature: float = 10.0, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.bins = check_whole_number("LD", "bins", bins, least=2)
        self.temperature = check_number("LD", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        for pair in self.pairs(student, teacher):
            shapes, received = [spec.shape for spec in pair], describe_pair(*pair)
            if shapes[0] != shapes[1]:
                expected = f"logits with the same positions and bins for method {self.name!r}"
                raise ValueError(explain_mismatch(expected, received, "tap two heads with the same layout"))
            size = shapes[0][-1]
            if not size or size % self.bins:
                expected = f"logits whose last axis is a multiple of {self.bins} bins for method {self.name!r}"
                advice = f"pass LD(bins=...) that divides {size}; a head with 4 edges of 17 bins has 68"
                raise ValueError(explain_mismatch(expected, received, advice))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        pairs = zip(*self.tensors(student, teacher), strict=True)
        return sum(ld_loss(*map(self._split_edges, pair), temperature=self.temperature) for pair in pairs)

    def _split_edges(self, logits: Tensor) -> Tensor:
        return ops.reshape(logits, (ops.shape(logits)[0], -1, self.bins))
