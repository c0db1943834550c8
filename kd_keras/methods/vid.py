"""VID: Ahn et al. 2019, *Variational Information Distillation for Knowledge Transfer*, 1904.05835,
its loss of a Gaussian with one variance per channel."""

from __future__ import annotations

import math

import keras
from keras import layers, ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.adapters import chain, conv, with_any_size
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import as_list, flatten, pooled_to_common_size

LEAST_VARIANCE = 1e-5  # added to every variance, so that none vanishes


def vid_loss(student: list[Tensor], teacher: list[Tensor], *, variances: list[Tensor]) -> Tensor:
    """The mean over elements of ((mu - t)^2 / sigma^2 + log sigma^2) / 2, summed over pairs of maps.

    This is the negative log-likelihood of the teacher's map under a normal distribution whose mean mu the student
    predicts, up to the constant log(2 pi) / 2.

    Args:
        student: predicted means mu `(B, H, W, C)`; a single map needs no list.
        teacher: as many maps t of the same shapes.
        variances: for each pair, sigma^2 > 0 per channel, `(C,)`.

    Returns:
        `(B,)` float32, in nats per element; negative if a variance below 1 fits well.

    >>> import numpy as np
    >>> float(vid_loss(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 2.0), variances=np.ones(3))[0])
    2.0
    """
    triples = zip(as_list(student), as_list(teacher), as_list(variances), strict=True)
    return sum(ops.mean(flatten(_negative_log_likelihood(*triple)), axis=-1) for triple in triples)


def _negative_log_likelihood(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    mean, target, variance = (ops.cast(x, "float32") for x in (mean, target, variance))
    return 0.5 * (ops.square(mean - target) / variance + ops.log(variance))


@keras.saving.register_keras_serializable("kd_keras")
class VID(TapPairMethod):
    """The student's maps predict the teacher's: a trainable mean from the student's map, a trainable variance per
    channel.

    The mean is computed by three 1x1 convolutions with ReLU between them, the variance is softplus(rho) + 1e-5. If
    sizes differ, the larger map is average-pooled to the smaller. As in RepDistiller's code rho is trained;
    mdistiller's never reaches the optimizer, so that its variance keeps its initial value.

    Args:
        initial_variance: the initial sigma^2 of every channel, greater than 1e-5.
        **options: `student_tap` and `teacher_tap`, by default all stages; `weight`, by default 1 as in the published
            CIFAR-100 tables, with a hard loss of 1; `name`.

    >>> VID(initial_variance=2.0).get_config()["initial_variance"]
    2.0
    """

    family = "features"
    paper = "Ahn et al. 2019, 1904.05835"
    taps = Taps(("stages",), ("stages",))

    def __init__(self, *, initial_variance: float = 5.0, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.initial_variance = check_number("VID", "initial_variance", initial_variance, above=LEAST_VARIANCE)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        self.means = [_build_mean(*pair) for pair in pairs]
        excess = self.initial_variance - LEAST_VARIANCE
        initializer = keras.initializers.Constant(excess + math.log(-math.expm1(-excess)))  # whose softplus is `excess`
        widths = [target.shape[-1] for _, target in pairs]
        self.rhos = [self.add_weight((width,), initializer, name=f"rho_{i}") for i, width in enumerate(widths)]
        super().bind(student, teacher)

    def variances(self) -> list[Tensor]:
        """sigma^2 per channel, `(C,)` for each pair."""
        return [ops.softplus(ops.convert_to_tensor(rho)) + LEAST_VARIANCE for rho in self.rhos]

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        pairs = [pooled_to_common_size(*pair) for pair in zip(*self.tensors(student, teacher), strict=True)]
        student_maps, teacher_maps = zip(*pairs, strict=True)
        means = [predict(maps, training=True) for predict, maps in zip(self.means, student_maps, strict=True)]
        return vid_loss(means, list(teacher_maps), variances=self.variances())


def _build_mean(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    """Three 1x1 convolutions to the teacher's width, for maps of any size."""
    width = teacher.shape[-1]
    first, second = layers.ReLU(dtype="float32"), layers.ReLU(dtype="float32")
    return chain(with_any_size(student), conv(width), first, conv(width), second, conv(width), name="mean")
