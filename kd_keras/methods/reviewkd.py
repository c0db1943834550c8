"""ReviewKD: Chen, Liu, Zhao, Jia 2021, *Distilling Knowledge via Knowledge Review*, 2104.09044, section 3."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain, conv, fan_in_uniform
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.schedules import ramp
from kd_keras.primitives import as_list, average_pool_to


def reviewkd_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The hierarchical context loss (HCL): mean squared differences of maps on a pyramid of sizes.

    A map of height H has the loss sum_l w_l MSE(pool_l(s), pool_l(t)) / sum_l w_l. The first l is the map itself with
    w = 1; then come the maps average-pooled to 4x4, 2x2 and 1x1, as far as they are smaller than H, each with half the
    weight of the previous one. The losses of all maps are added.

    Args:
        student: the fused maps `(B, H, W, C)`, of the teacher's shapes; a single map needs no list.
        teacher: as many maps `(B, H, W, C)`.

    Returns:
        `(B,)` float32, at least 0; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> float(reviewkd_loss([np.zeros((1, 2, 2, 3))], [np.full((1, 2, 2, 3), 2.0)])[0])
    4.0
    """
    return sum(_mean_over_pyramid(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True))


def _mean_over_pyramid(student: Tensor, teacher: Tensor) -> Tensor:
    difference = ops.cast(student, "float32") - ops.cast(teacher, "float32")  # pooling is linear: pool once
    sizes = (size for size in (4, 2, 1) if size < difference.shape[1])
    levels = [difference, *(average_pool_to(difference, (size, size)) for size in sizes)]
    weights = [0.5**level for level in range(len(levels))]
    squares = (ops.mean(ops.square(level), axis=(1, 2, 3)) for level in levels)
    return sum(weight * square for weight, square in zip(weights, squares, strict=True)) / sum(weights)


@keras.saving.register_keras_serializable("kd_keras")
class ReviewKD(TapPairMethod):
    """The student's maps, each fused with all deeper ones, follow the teacher's maps before their activation.

    From the deepest level to the largest map: the student's map is projected to `min(512, width of the deepest)`
    channels; the result of the deeper level is resized to it (nearest neighbor); two gates, computed from both, weight
    them in their sum. That sum, resized to the teacher's size, is passed on to the next level, and its 3x3 convolution
    to the teacher's width is compared. The deepest level is the embedding, as a map of 1x1.

    Tune the weight for the pair of networks. The authors' weights on CIFAR-100, all with a hard loss of 1: 5 for
    WRN-40-2 to WRN-16-2, to WRN-40-1 and to ShuffleNetV1 and for ResNet-32x4 to ResNet-8x4 and to ShuffleNetV1; 8 for
    ResNet-32x4 to ShuffleNetV2; 0.6 for ResNet-56 to ResNet-20; 1 for ResNet-110 to ResNet-32. On ImageNet, with a
    warm-up of 1 epoch and `student_tap=("stages:pre", "embedding")`: 1 for ResNet-34 to ResNet-18, 8 for ResNet-50 to
    MobileNetV1. The published maps begin at 56 pixels: name the stages of both sides without that of 112 pixels, as
    `experiments/configs/published/methods/reviewkd_imagenet.flags` does.

    Differs from the authors' code in counting epochs from 1 in the warm-up, as mdistiller does; in that code the first
    epoch does not have this loss. A stage is the last map of its size: for ShuffleNetV2 the map after its last 1x1
    convolution, while the authors take the one before. Training costs more than a small student: 295 million
    multiply-accumulates per image for ResNet-8x4, which has 177 million itself.

    Args:
        warmup_epochs: the number of epochs of a linear warm-up, in which the loss is multiplied by
            `min((epoch + 1) / warmup_epochs, 1)` with `epoch` from 0; 0 for none.
        **options: `student_tap`, by default all stages and the embedding; `teacher_tap`, by default all stages before
            activation and the embedding; `weight`, by default 1 (see above); `name`. Taps go from the largest map to
            the deepest, as many for both sides; sizes may differ. If the student has more stages than the teacher, name
            them without the largest, for example `("stages[1]", "stages[2]", "stages[3]", "embedding")` for a
            ShuffleNet whose teacher is a residual network with three stages, as published.

    >>> ReviewKD(warmup_epochs=0).taps.teacher
    ('stages:pre', 'embedding')
    """

    family = "features"
    paper = "Chen, Liu, Zhao, Jia 2021, 2104.09044"
    taps = Taps(("stages", "embedding"), ("stages:pre", "embedding"))

    def __init__(self, *, warmup_epochs: float = 20, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.warmup_epochs = check_number("ReviewKD", "warmup_epochs", warmup_epochs, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = [(_as_map_spec(spec), _as_map_spec(target)) for spec, target in self.pairs(student, teacher)]
        width = min(512, pairs[-1][0].shape[-1])
        self.sizes = [(spec.shape[1:3], target.shape[1:3]) for spec, target in reversed(pairs)]
        # The deepest level comes first and has no gates, because there is nothing to fuse.
        self.to_middle, self.gates, self.to_teacher = [], [], []
        initial: dict[str, Any] = {"kernel_initializer": "lecun_uniform"}  # the authors' values, except for the gates
        gate_bias = fan_in_uniform(2 * width)
        for spec, target in reversed(pairs):
            middle = TapSpec(target.layer, (*target.shape[:3], width))
            self.to_middle.append(chain(spec, conv(width, **initial), batch_norm(), name="to_middle"))
            projection = conv(target.shape[-1], 3, **initial)
            self.to_teacher.append(chain(middle, projection, batch_norm(), name="to_teacher"))
            if len(self.to_middle) > 1:
                concatenated = TapSpec(spec.layer, (*spec.shape[:3], 2 * width))
                gate = conv(2, use_bias=True, bias_initializer=gate_bias, activation="sigmoid")
                self.gates.append(chain(concatenated, gate, name="gates"))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        student_maps, teacher_maps = (list(map(_as_map, tensors)) for tensors in self.tensors(student, teacher))
        return reviewkd_loss(self.fuse(student_maps), teacher_maps) * ramp(step, self.warmup_epochs)

    def fuse(self, maps: list[Tensor]) -> list[Tensor]:
        """The student's maps `(B, H, W, C)`, fused and with the teacher's shapes, in the same order."""
        results: list[Tensor] = []
        deeper = None
        for level, (student_map, (size, target)) in enumerate(zip(reversed(maps), self.sizes, strict=True)):
            x = self.to_middle[level](student_map, training=True)
            if level:
                deeper = _resize_nearest(deeper, size)
                gates = _gates(self.gates[level - 1].layers[-1], x, deeper)
                x = x * gates[..., :1] + deeper * gates[..., 1:]
            deeper = _resize_nearest(x, target)
            results.insert(0, self.to_teacher[level](deeper, training=True))
        return results


def _as_map_spec(spec: TapSpec) -> TapSpec:
    """The specification of a map; a vector becomes a map of 1x1."""
    shape = (None, 1, 1, spec.shape[-1]) if len(spec.shape) == 2 else tuple(spec.shape)
    if len(shape) != 4 or None in shape[1:]:
        expected = "maps (B, H, W, C) of known size, or vectors (B, D), for ReviewKD"
        advice = 'tap "stages", and build the network with a fixed input_shape'
        raise ValueError(explain_mismatch(expected, f"{spec.layer!r} {spec.shape}", advice))
    return TapSpec(spec.layer, shape)


def _as_map(x: Tensor) -> Tensor:
    x = ops.cast(x, "float32")
    return x[:, None, None, :] if len(x.shape) == 2 else x


def _gates(layer: keras.layers.Layer, x: Tensor, deeper: Tensor) -> Tensor:
    """The gates `(B, H, W, 2)` of two maps: the layer's 1x1 convolution of both together, without joining them."""
    kernel, width = layer.kernel[0, 0], x.shape[-1]
    own, other = ops.tensordot(x, kernel[:width], axes=1), ops.tensordot(deeper, kernel[width:], axes=1)
    return layer.activation(own + other + layer.bias)


def _resize_nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """`(B, H, W, C)` to `(B, h, w, C)` by the nearest neighbor: row i is row floor(i H / h), as in PyTorch."""
    for axis, (length, count) in enumerate(zip(maps.shape[1:3], size, strict=True), 1):
        if count % length == 0:  # several times as fast as a product with a matrix
            maps = ops.repeat(maps, count // length, axis=axis)
        else:
            chosen = np.eye(length, dtype="float32")[np.arange(count) * length // count]
            maps = ops.einsum("ih,bhwc->biwc" if axis == 1 else "iw,bhwc->bhic", chosen, maps)
    return maps
