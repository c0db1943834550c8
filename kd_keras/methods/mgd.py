"""MGD: Yang et al. 2022, *Masked Generative Distillation*, 2205.01529, its loss of the generated map."""

from __future__ import annotations

import keras
from keras import layers, ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_integer, check_number
from kd_keras.methods.adapters import chain, conv, fan_in_uniform, width_adapter, with_any_size
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import as_list, mean_square, pooled_to_common_size


def mgd_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The mean squared difference between the maps generated from the student's and the teacher's maps, summed over
    pairs.

    Differs from the authors' and MMRazor's code, which sum over positions and channels and therefore use weights of
    1e-4 to 1e-7; the mean, which does not grow with the map, is NVIDIA ModelOpt's.

    Args:
        student: generated maps `(B, H, W, C)`; a single map needs no list.
        teacher: as many maps of the same shapes.

    Returns:
        `(B,)` float32, at least 0; its mean over the batch is the mean over all elements.

    >>> import numpy as np
    >>> float(mgd_loss(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 2.0))[0])
    4.0
    """
    return sum(mean_square(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True))


@keras.saving.register_keras_serializable("kd_keras")
class MGD(TapPairMethod):
    """A generator makes the teacher's map from the student's map, of which random positions are masked.

    The student's map passes a 1x1 convolution if channels differ, then a mask, which is drawn anew at every step and is
    the same for all channels, then a 3x3 convolution, ReLU, and another 3x3 convolution; all are trainable. Sizes
    should be equal; otherwise the larger map is average-pooled to the smaller. Each replica draws masks for its own
    examples. For classifiers the authors' code masks 15 % of the channels instead (with a weight of 7e-5 for the sum);
    this is the form for detection, which the other two implementations have.

    Args:
        mask_ratio: the fraction of masked positions, from 0 to less than 1.
        seed: the seed of the masks; `None` for one drawn by Keras.
        **options: `student_tap` and `teacher_tap`, by default the last stage (for detection the maps of the pyramid);
            `weight`, by default 1 as in ModelOpt's code, with a hard loss of 1; `name`. The published weights belong to
            a sum over C H W elements, 2e-5 for RetinaNet and 5e-7 for Faster R-CNN; multiply them by C H W here. Tune
            the weight.

    Raises:
        TypeError: if the seed is not an integer.
        ValueError: if the ratio is not a fraction.

    >>> MGD(mask_ratio=0.5, seed=1).draw_mask(ops.ones((2, 8, 8, 3))).shape
    TensorShape([2, 8, 8, 1])
    """

    family = "dense"
    paper = "Yang et al. 2022, 2205.01529"
    taps = Taps(("stages[-1]",), ("stages[-1]",))

    def __init__(self, *, mask_ratio: float = 0.65, seed: int | None = None, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.mask_ratio = check_number("MGD", "mask_ratio", mask_ratio, least=0, below=1)
        self.seed = None if seed is None else check_integer("MGD", "seed", seed)
        self.generator = keras.random.SeedGenerator(seed)
        self.drawn = self.generator.state  # a weight of this layer, so that a weights file contains it

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        self.adapters = [_build_adapter(*pair) for pair in pairs]
        self.map_generators = [_build_map_generator(target) for _, target in pairs]
        super().bind(student, teacher)

    def draw_mask(self, maps: Tensor) -> Tensor:
        """`(B, H, W, 1)` float32: 0 at the masked positions of maps `(B, H, W, C)`, 1 elsewhere."""
        shape = (ops.shape(maps)[0], *maps.shape[1:3], 1)
        return ops.cast(keras.random.uniform(shape, dtype="float32", seed=self.generator) >= self.mask_ratio, "float32")

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        pairs = [pooled_to_common_size(*pair) for pair in zip(*self.tensors(student, teacher), strict=True)]
        student_maps, teacher_maps = zip(*pairs, strict=True)
        adapted = [adapt(maps, training=True) for adapt, maps in zip(self.adapters, student_maps, strict=True)]
        masked = [maps * self.draw_mask(maps) for maps in adapted]
        generated = [generate(maps, training=True) for generate, maps in zip(self.map_generators, masked, strict=True)]
        return mgd_loss(generated, list(teacher_maps))


def _build_adapter(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    bias = fan_in_uniform(student.shape[-1])
    return width_adapter(with_any_size(student), teacher, use_bias=True, bias_initializer=bias)


def _build_map_generator(teacher: TapSpec) -> keras.layers.Layer:
    width = teacher.shape[-1]
    first, second = (conv(width, 3, use_bias=True, bias_initializer=fan_in_uniform(9 * width)) for _ in range(2))
    return chain(with_any_size(teacher), first, layers.ReLU(dtype="float32"), second, name="map_generator")
