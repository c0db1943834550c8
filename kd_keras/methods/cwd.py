"""CWD: Shu et al. 2021, *Channel-wise Knowledge Distillation for Dense Prediction*, 2011.13256, section 3."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.adapters import width_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.positions import valid_positions
from kd_keras.primitives import as_list, resize_bilinear, softened_kl


def cwd_loss(
    student: list[Tensor],
    teacher: list[Tensor],
    valid: list[Tensor | None] | None = None,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """T^2 KL(p_t || p_s) with p = softmax(x / T) over the positions of a channel; its mean over the channels, summed
    over pairs of maps.

    Its mean over the batch is the published sum over everything / (C N). A student's map of another size is resized to
    the teacher's size, bilinearly with half-pixel centers.

    Args:
        student: maps `(B, H, W, C)`; a single map needs no list.
        teacher: as many maps with the same numbers of channels.
        valid: for each of the teacher's maps the positions that take part, `(B, H, W)` bool, or `None` for all. An
            image without any has a loss of 0.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2, at least 0.

    >>> import numpy as np
    >>> left, even = np.log([[[[3.0], [1.0]]]]), np.zeros((1, 1, 2, 1))  # (B, H, W, C)
    >>> round(float(cwd_loss(even, left)[0]), 4)  # 3/4 log(3/2) + 1/4 log(1/2)
    0.1308
    """
    student, teacher = as_list(student), as_list(teacher)
    triples = zip(student, teacher, [None] * len(teacher) if valid is None else as_list(valid), strict=True)
    rows = (
        (
            _channels_as_rows(_masked(resize_bilinear(maps, target.shape[1:3]), mask)),
            _channels_as_rows(_masked(target, mask)),
        )
        for maps, target, mask in triples
    )
    divergences = (softened_kl(*pair, temperature) for pair in rows)
    return temperature**2 * sum(ops.mean(divergence, axis=-1) for divergence in divergences)


def _masked(maps: Tensor, valid: Tensor | None) -> Tensor:
    """Maps whose other positions have a probability of 0."""
    return maps if valid is None else ops.where(valid[..., None], ops.cast(maps, "float32"), -1e9)


def _channels_as_rows(maps: Tensor) -> Tensor:
    """`(B, H, W, C)` as `(B, C, H W)`."""
    maps = ops.transpose(maps, (0, 3, 1, 2))
    return ops.reshape(maps, (ops.shape(maps)[0], maps.shape[1], -1))


@keras.saving.register_keras_serializable("kd_keras")
class CWD(TapPairMethod):
    """Each of the student's channels is active at the same positions of the image as the teacher's.

    If widths differ, a trainable 1x1 convolution leads to the teacher's; if sizes differ, the student's map is resized
    to the teacher's. For segmentation, both taps may be "logits" of shape (B, H, W, K). If labels are masks, ignored
    positions take part in no distribution; the published code uses all.

    Args:
        temperature: T > 0; 1 in MMRazor, 4 in the paper.
        **options: `student_tap` and `teacher_tap`, by default the last stage, summed over several maps; `weight`, by
            default 10 as in MMRazor for feature maps (each level of a detector's pyramid), with a hard loss of 1;
            `name`. MMRazor uses 5 for the logits of a segmentation network; the paper, at temperature 4, uses 50 for
            feature maps and 3 for logits. Of these, only the paper's for feature maps has the 1x1 convolution: tune the
            weight for others.

    >>> CWD(student_tap="logits", teacher_tap="logits", weight=5.0).taps.student
    ('logits',)
    """

    family = "dense"
    paper = "Shu et al. 2021, 2011.13256"
    taps = Taps(("stages[-1]",), ("stages[-1]",))
    default_weight = 10.0

    def __init__(self, *, temperature: float = 1.0, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.temperature = check_number("CWD", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.adapters = [width_adapter(*pair) for pair in self.pairs(student, teacher, rank=4, sized=False)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, teacher_maps = self.tensors(student, teacher)
        adapted = [adapt(maps, training=True) for adapt, maps in zip(self.adapters, student_maps, strict=True)]
        valid = [valid_positions(batch.label, maps) for maps in teacher_maps]
        return cwd_loss(adapted, teacher_maps, valid, temperature=self.temperature)
