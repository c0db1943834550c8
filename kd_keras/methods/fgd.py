"""FGD: Yang et al. 2022, *Focal and Global Knowledge Distillation for Detectors*, 2111.11837."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.detection.boxes import NO_OBJECT
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import describe_pair, fan_in_uniform, width_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.labels import require_boxes

__all__ = ("fgd_masks",)


def fgd_loss(
    student: Tensor,
    teacher: Tensor,
    foreground: Tensor,
    background: Tensor,
    *,
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 5e-4,
) -> Tensor:
    """The focal part, equations 4 to 9: alpha sum M^F A^S A^C (F_t - F_s)^2 + beta sum M^B (the same) + gamma L_at.

    A^S = H W softmax(mean_C |F| / T) over the positions and A^C = C softmax(mean_HW |F| / T) over the channels are the
    teacher's attention, and L_at = ||A^S_s - A^S_t||_1 + ||A^C_s - A^C_t||_1 the difference of the student's from it.

    Args:
        student: a map `(B, H, W, C)`.
        teacher: a map of the same shape.
        foreground: `(B, H, W)`, M^F of `fgd_masks`.
        background: `(B, H, W)`, M^B.
        temperature: T > 0.
        alpha: the weight of the foreground.
        beta: the weight of the background.
        gamma: the weight of the attention.

    Returns:
        `(B,)` float32, at least 0; a sum over positions and channels, to which the published weights belong.

    >>> import numpy as np
    >>> zeros, mask = np.zeros((1, 1, 2, 1)), np.array([[[0.5, 0.0]]])  # even attention is 1 everywhere
    >>> float(fgd_loss(zeros + [[2.0], [4.0]], zeros, mask, 0 * mask, alpha=1.0, gamma=0.0)[0])  # 1/2 * 2^2
    2.0
    """
    student, teacher = (ops.cast(ops.convert_to_tensor(maps), "float32") for maps in (student, teacher))
    spatial, channels = _attention(teacher, temperature)
    own_spatial, own_channels = _attention(student, temperature)
    mask = alpha * ops.cast(foreground, "float32") + beta * ops.cast(background, "float32")
    weight = (mask * spatial)[..., None] * channels[:, None, None]
    features = ops.sum(weight * ops.square(teacher - student), axis=(1, 2, 3))
    attention = ops.sum(ops.abs(own_spatial - spatial), axis=(1, 2))
    return features + gamma * (attention + ops.sum(ops.abs(own_channels - channels), axis=1))


def fgd_relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The sum of the squared differences of two maps after their global context, equation 10 without lambda.

    Args:
        student: a map `(B, H, W, C)`.
        teacher: a map of the same shape.

    Returns:
        `(B,)` float32.

    >>> import numpy as np
    >>> float(fgd_relation_loss(np.zeros((1, 1, 2, 3)), np.full((1, 1, 2, 3), 2.0))[0])
    24.0
    """
    difference = ops.cast(student, "float32") - ops.cast(teacher, "float32")
    return ops.sum(ops.square(difference), axis=(1, 2, 3))


def fgd_masks(boxes: Tensor, classes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The masks of foreground and background on a map, each `(B, H, W)` float32.

    A box covers the cells from floor(start) to ceil(end), both included, as in the authors' code. M^F is 1 / (number of
    these cells) inside a box, of several boxes that of the smallest, and 0 outside all; M^B is 1 / (number of cells
    outside all boxes) there and 0 inside. An image without boxes has only background.

    Args:
        boxes: `(B, M, 4)`, "rel_yxyx".
        classes: `(B, M)`, -1 for a row without an object.
        size: `(H, W)` of the map.

    >>> foreground, background = fgd_masks([[[0.0, 0.0, 1.0, 0.4]]], [[0]], (1, 4))
    >>> foreground.numpy().round(3).tolist(), background.numpy().tolist()  # 3 columns of 2 rows, one outside the map
    ([[[0.16699999570846558, 0.16699999570846558, 0.16699999570846558, 0.0]]], [[[0.0, 0.0, 0.0, 1.0]]])
    """
    boxes = ops.cast(ops.convert_to_tensor(boxes), "float32")
    is_object = ops.convert_to_tensor(classes) != NO_OBJECT
    low = ops.floor(boxes[..., :2] * ops.convert_to_tensor(size, "float32"))  # (B, M, 2)
    high = ops.ceil(boxes[..., 2:] * ops.convert_to_tensor(size, "float32"))
    value = ops.where(is_object, 1.0 / ops.prod(high + 1 - low, axis=-1), 0.0)
    inside = [
        (ops.arange(length, dtype="float32") >= low[..., axis, None])
        & (ops.arange(length, dtype="float32") <= high[..., axis, None])
        for axis, length in enumerate(size)
    ]  # (B, M, H) and (B, M, W)
    covers = inside[0][..., :, None] & inside[1][..., None, :]
    foreground = ops.max(ops.where(covers, value[..., None, None], 0.0), axis=1)
    background = ops.cast(foreground == 0, "float32")
    return foreground, background / ops.maximum(ops.sum(background, axis=(1, 2), keepdims=True), 1.0)


def _attention(maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A^S `(B, H, W)` and A^C `(B, C)`."""
    height, width, channels = maps.shape[1:]
    sizes = ops.abs(maps)
    rows = ops.reshape(ops.mean(sizes, axis=-1), (-1, height * width)) / temperature
    spatial = height * width * ops.reshape(ops.softmax(rows, axis=-1), (-1, height, width))
    return spatial, channels * ops.softmax(ops.mean(sizes, axis=(1, 2)) / temperature, axis=-1)


class GlobalContext(layers.Layer):
    """Adds to each position of a map what a learned attention over all positions gathers (GCNet, 1904.11492).

    A 1x1 convolution and a softmax over the positions weigh them; their weighted sum passes C, C / 2, LayerNorm, ReLU
    and C channels, of which the last layer starts at zero.

    >>> GlobalContext()(ops.ones((1, 2, 2, 4))).shape
    TensorShape([1, 2, 2, 4])
    """

    def build(self, shape: tuple) -> None:
        channels = shape[-1]
        half, initial = max(channels // 2, 1), fan_in_uniform(channels)
        he = keras.initializers.HeNormal()
        self.score = layers.Dense(1, kernel_initializer=he, dtype="float32", name="score")
        self.reduce = layers.Dense(
            half, kernel_initializer=initial, bias_initializer=initial, dtype="float32", name="reduce"
        )
        self.normalize = layers.LayerNormalization(epsilon=1e-5, dtype="float32", name="normalize")
        self.expand = layers.Dense(channels, kernel_initializer="zeros", dtype="float32", name="expand")
        self.score.build(shape)
        self.reduce.build((None, channels))
        self.normalize.build((None, half))
        self.expand.build((None, half))

    def call(self, maps: Tensor) -> Tensor:
        positions = ops.reshape(maps, (-1, maps.shape[1] * maps.shape[2], maps.shape[3]))
        weight = ops.softmax(self.score(positions), axis=1)
        context = self.reduce(ops.sum(weight * positions, axis=1))
        return maps + self.expand(ops.relu(self.normalize(context)))[:, None, None]


@keras.saving.register_keras_serializable("kd_keras")
class FGD(TapPairMethod):
    """The student's maps and their global context follow the teacher's; objects and background weigh differently.

    Labels are boxes. If widths differ, a trainable 1x1 convolution leads to the teacher's; sizes must be equal. Each
    level has two global contexts, the student's and the teacher's, and both are trained, as in the authors' code. The
    terms are sums, so that the published weights belong to maps of 256 channels and images of 800 pixels: tune them
    for others.

    Args:
        temperature: T > 0 of the attention; 0.5, for FCOS 0.8.
        alpha: the weight of the foreground; 1e-3 for RetinaNet and GFL, 5e-5 for Faster R-CNN, 1.6e-3 for FCOS.
        beta: the weight of the background; half of alpha.
        gamma: the weight of the attention; 5e-4 for RetinaNet and GFL, 5e-5 for Faster R-CNN, 8e-4 for FCOS.
        relation: the weight of the global part, lambda; 5e-6, 5e-7 and 8e-6.
        **options: `student_tap` and `teacher_tap`, by default all levels of the pyramid of `models.detector`; `weight`,
            by default 1, with the detector's own loss; `name`.

    >>> FGD(alpha=1.6e-3, beta=8e-4, gamma=8e-4, relation=8e-6, temperature=0.8).temperature
    0.8
    """

    family = "dense"
    paper = "Yang et al. 2022, 2111.11837"
    taps = Taps(("stages",), ("stages",))

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        alpha: float = 1e-3,
        beta: float = 5e-4,
        gamma: float = 5e-4,
        relation: float = 5e-6,
        **options: Unpack[TapPairOptions],
    ):
        super().__init__(**options)
        self.temperature = check_number("FGD", "temperature", temperature, above=0)
        self.alpha = check_number("FGD", "alpha", alpha, least=0)
        self.beta = check_number("FGD", "beta", beta, least=0)
        self.gamma = check_number("FGD", "gamma", gamma, least=0)
        self.relation = check_number("FGD", "relation", relation, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = self.pairs(student, teacher, rank=4)
        for pair in pairs:
            if pair[0].shape[1:3] != pair[1].shape[1:3]:
                expected = f"maps of the same size for method {self.name!r}"
                advice = "use the same pyramid and image size"
                raise ValueError(explain_mismatch(expected, describe_pair(*pair), advice))
        self.adapters = [_build_adapter(*pair) for pair in pairs]
        # A flat list, the student's and the teacher's of each level: Keras before 3.14 does not save lists in lists.
        self.contexts = [GlobalContext(dtype="float32") for _ in pairs for _ in range(2)]
        for number, context in enumerate(self.contexts):
            context.build(pairs[number // 2][1].shape)
        super().bind(student, teacher)

    def check_batch(self, batch: Batch) -> None:
        require_boxes(self.name, batch.label)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        boxes, classes = require_boxes(self.name, batch.label)
        weights: dict[str, Any] = {name: getattr(self, name) for name in ("temperature", "alpha", "beta", "gamma")}
        contexts = (self.contexts[::2], self.contexts[1::2])
        levels = zip(*self.tensors(student, teacher), self.adapters, *contexts, strict=True)
        total = 0.0
        for maps, target, adapt, own_context, context in levels:
            maps, target = adapt(maps), ops.cast(target, "float32")
            masks = fgd_masks(boxes, classes, tuple(target.shape[1:3]))
            total = total + fgd_loss(maps, target, *masks, **weights)
            total = total + self.relation * fgd_relation_loss(own_context(maps), context(target))
        return total


def _build_adapter(student: TapSpec, teacher: TapSpec) -> keras.layers.Layer:
    return width_adapter(student, teacher, use_bias=True, bias_initializer=fan_in_uniform(student.shape[-1]))
