"""PKD: Cao et al. 2022, *PKD: General Distillation Framework for Object Detectors*, 2207.02039, section 3."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.methods.adapters import width_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import as_list, resize_bilinear, rounding_of


def pkd_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Half the mean squared difference of normalized maps, summed over levels: nearly 1 - Pearson's correlation.

    Each channel is normalized over the batch and all positions: its mean is subtracted, and it is divided by its sample
    standard deviation (over N - 1) + 1e-6. A student's map of another size is resized to the teacher's, bilinearly with
    half-pixel centers. A channel that is constant up to the rounding of float32 counts as zero and has no gradient; in
    MMRazor's code its gradient is that of a division by 1e-6.

    Args:
        student: maps `(B, H, W, C)`, one per level; a single map needs no list.
        teacher: as many maps with the same numbers of channels.

    Returns:
        `()` float32, from 0 to 2 for each level.

    >>> import numpy as np
    >>> rising = np.arange(4.0).reshape(1, 2, 2, 1)  # (B, H, W, C)
    >>> round(float(pkd_loss(rising, 5 + 2 * rising)), 4), round(float(pkd_loss(rising, -rising)), 4)
    (0.0, 1.5)
    """
    pairs = zip(as_list(student), as_list(teacher), strict=True)
    differences = (
        _normalize_channels(resize_bilinear(maps, target.shape[1:3])) - _normalize_channels(target)
        for maps, target in pairs
    )
    return sum(ops.mean(ops.square(difference)) / 2 for difference in differences)


def _normalize_channels(maps: Tensor) -> Tensor:
    """`(C, N)` with N the positions of a whole batch; sums along the last axis lose the fewest digits for a large N."""
    maps = ops.transpose(ops.cast(maps, "float32"), (3, 0, 1, 2))
    maps = ops.reshape(maps, (maps.shape[0], -1))
    freedom = ops.maximum(ops.cast(ops.shape(maps)[1] - 1, "float32"), 1.0)
    mean = ops.mean(maps, axis=1, keepdims=True)
    maps = maps - mean
    variance = ops.sum(ops.square(maps), axis=1, keepdims=True) / freedom
    is_constant = variance <= rounding_of(mean)
    return ops.where(is_constant, 0.0, maps / (ops.sqrt(ops.where(is_constant, 1.0, variance)) + 1e-6))


@keras.saving.register_keras_serializable("kd_keras")
class PKD(TapPairMethod):
    """Each of the student's channels correlates with the teacher's over the batch and all positions.

    Scales and offsets do not matter, so that detectors of different kinds can teach each other. If widths differ, a
    trainable 1x1 convolution leads to the teacher's; if sizes differ, the student's map is resized to the teacher's.

    Args:
        across_replicas: whether to normalize over the global batch instead of the slice on each replica.
        **options: `student_tap` and `teacher_tap`, by default all stages (for a detector the levels of its pyramid);
            `weight`, by default 6 as in MMRazor for Faster R-CNN, with the detector's own loss; `name`. That setting
            taps four levels of the pyramid; RetinaNet has 10. Levels are summed: tune the weight for more or fewer.

    >>> PKD(across_replicas=True).across_replicas
    True
    """

    family = "dense"
    paper = "Cao et al. 2022, 2207.02039"
    taps = Taps(("stages",), ("stages",))
    default_weight = 6.0

    def __init__(self, *, across_replicas: bool = False, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.adapters = [width_adapter(*pair) for pair in self.pairs(student, teacher, rank=4, sized=False)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, teacher_maps = self.tensors(student, teacher)
        adapted = [adapt(maps, training=True) for adapt, maps in zip(self.adapters, student_maps, strict=True)]
        return pkd_loss(adapted, teacher_maps)
