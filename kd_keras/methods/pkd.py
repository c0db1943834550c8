"""PKD: Cao et al. 2022, *PKD: General Distillation Framework for Object Detectors*, 2207.02039, section 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.adapters import aligned
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, resized


def pkd_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Half the mean squared difference of normalised maps, summed over levels: nearly 1 - Pearson's correlation.

    Each channel is normalised over the batch and all positions: less its mean, over its standard deviation + 1e-6, that
    of a sample (over N - 1). A student's map of another size is resized to the teacher's, bilinearly, with half-pixel
    centres. A channel that is constant but for float32's rounding counts as zero and has no gradient; in MMRazor's code
    its gradient is that of a division by 1e-6.

    Args:
        student: maps `(B, H, W, C)`, one a level; one map alone may come without its list.
        teacher: maps of the same channels, as many.

    Returns:
        `()` float32, from 0 to 2 for each level.

    >>> import numpy as np
    >>> rising = np.arange(4.0).reshape(1, 2, 2, 1)  # (B, H, W, C)
    >>> round(float(pkd_loss(rising, 5 + 2 * rising)), 4), round(float(pkd_loss(rising, -rising)), 4)
    (0.0, 1.5)
    """
    pairs = zip(as_list(student), as_list(teacher), strict=True)
    differences = (_normalize_weights(resized(ours, theirs.shape[1:3])) - _normalize_weights(theirs) for ours, theirs in pairs)
    return sum(ops.mean(ops.square(difference)) / 2 for difference in differences)


def _normalize_weights(maps: Tensor) -> Tensor:
    """`(C, N)`; float32 sums along the last axis lose least, where N, all positions of a batch, is large."""
    maps = ops.transpose(ops.cast(maps, "float32"), (3, 0, 1, 2))
    maps = ops.reshape(maps, (maps.shape[0], -1))
    freedom = ops.maximum(ops.cast(ops.shape(maps)[1] - 1, "float32"), 1.0)
    mean = ops.mean(maps, axis=1, keepdims=True)
    maps = maps - mean
    variance = ops.sum(ops.square(maps), axis=1, keepdims=True) / freedom
    alive = variance > 1e-12 * ops.square(mean) + 1e-24
    return ops.where(alive, maps / (ops.sqrt(ops.where(alive, variance, 1.0)) + 1e-6), 0.0)


@keras.saving.register_keras_serializable("kd_keras")
class PKD(TapPairMethod):
    """Each of the student's channels correlates with the teacher's over the batch and all positions.

    Scales and offsets do not matter, so that detectors of different kinds can teach each other. Where widths differ, a
    trainable 1x1 convolution leads to the teacher's; where sizes differ, the student's map is resized to the teacher's.
    A replica normalises over its part of the batch by default.

    Args:
        student_tap: the maps, by default those of all stages; for a detector, its pyramid's levels.
        teacher_tap: what they follow, as many.
        across_replicas: whether to normalise over the global batch.
        weight: 6 in MMRazor for Faster R-CNN, which taps four levels of the pyramid; 10 there for RetinaNet. Beside the
            detector's own loss. Levels are summed: tune the weight where there are more or fewer.
        name: the term's name in the log.
    """

    family = "dense"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = "stages",
        teacher_tap: str | Sequence[str] = "stages",
        across_replicas: bool = False,
        weight: Weight = 6.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.aligned = [aligned(*pair) for pair in self.pairs(student, teacher, rank=4, sized=False)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = self.tensors(student, teacher)
        return pkd_loss([adapter(one, training=True) for adapter, one in zip(self.aligned, ours)], theirs)
