"""ReviewKD: Chen, Liu, Zhao, Jia 2021, *Distilling Knowledge via Knowledge Review*, 2104.09044, section 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain, convolution
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight, ramp
from kd_keras.primitives import as_list, pooled


def reviewkd_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The hierarchical context loss (HCL): mean squared differences of maps on a pyramid of sizes.

    A level of height H gives sum_l w_l MSE(pool_l(s), pool_l(t)) / sum_l w_l. The first l is the map itself with
    w = 1; then the maps average-pooled to 4x4, 2x2 and 1x1, those with l < H only, each with half the weight of the one
    before. Levels are summed.

    Args:
        student: the fused maps `(B, H, W, C)`, of the teacher's shapes; one map alone may come without its list.
        teacher: the teacher's maps `(B, H, W, C)`, as many.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> float(reviewkd_loss([np.zeros((1, 2, 2, 3))], [np.full((1, 2, 2, 3), 2.0)])[0])
    4.0
    """
    return sum(_pyramid(s, t) for s, t in zip(as_list(student), as_list(teacher), strict=True))


def _pyramid(student: Tensor, teacher: Tensor) -> Tensor:
    difference = ops.cast(student, "float32") - ops.cast(teacher, "float32")  # pooling is linear: once is enough
    levels = [difference, *(pooled(difference, (size, size)) for size in (4, 2, 1) if size < difference.shape[1])]
    weights = [0.5**level for level in range(len(levels))]
    squares = (ops.mean(ops.square(level), axis=(1, 2, 3)) for level in levels)
    return sum(weight * square for weight, square in zip(weights, squares)) / sum(weights)


@keras.saving.register_keras_serializable("kd_keras")
class ReviewKD(TapPairMethod):
    """The student's maps, each fused with all deeper ones, follow the teacher's maps before their activation.

    From the deepest level to the largest map: the student's map goes to `min(512, width of the deepest)` channels; what
    the level below carried on is resized to it (nearest); two gates, of both together, say how much of each there is
    in their sum. That sum, resized to the teacher's size, is carried on, and a 3x3 convolution of it to the teacher's
    width is what is compared. The deepest level is the embedding, as a map of 1x1.

    The weight must be tuned to the pair, all beside a hard loss of 1. The authors' on CIFAR-100: 5 for WRN-40-2 to
    WRN-16-2, to WRN-40-1 and to ShuffleNetV1 and for ResNet-32x4 to ResNet-8x4 and to ShuffleNetV1; 8 for ResNet-32x4
    to ShuffleNetV2; 0.6 for ResNet-56 to 20; 1 for ResNet-110 to 32. On ImageNet, with a warm-up of 1 epoch and
    `student_tap=("stages:pre", "embedding")`: 1 for ResNet-34 to 18, 8 for ResNet-50 to MobileNetV1.

    Differs from the authors' code in counting epochs from 1 for the warm-up, as mdistiller does: there the first epoch
    is without this loss. A stage is here the last map of its size: ShuffleNetV2's is that after its last 1x1
    convolution, where the authors take the one before. In training it costs more than a small student: 295 million
    multiply-accumulates an image for ResNet-8x4, which has 177 million.

    Args:
        student_tap: the levels, from the largest map to the deepest. A student with more stages than the teacher needs
            them named, without the largest: `("stages[1]", "stages[2]", "stages[3]", "embedding")` for a ShuffleNet of
            a residual network with three stages, as published.
        teacher_tap: what they follow, as many, in the same order; the sizes may differ.
        warmup_epochs: over how many epochs the loss grows to its weight: by `min((epoch + 1) / warmup_epochs, 1)` with
            epochs from 0; 0 for no warm-up.
        weight: 1; see above.
        name: the term's name in the log.
    """

    family = "features"

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str] = ("stages", "embedding"),
        teacher_tap: str | Sequence[str] = ("stages:pre", "embedding"),
        warmup_epochs: float = 20,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.warmup_epochs = check_number("ReviewKD", "warmup_epochs", warmup_epochs, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pairs = [(_map(ours), _map(theirs)) for ours, theirs in self.pairs(student, teacher)]
        width = min(512, pairs[-1][0].shape[-1])
        self.sizes = [(ours.shape[1:3], theirs.shape[1:3]) for ours, theirs in reversed(pairs)]
        self.to_middle, self.gates, self.to_teacher = [], [], []  # deepest first; the deepest has nothing to fuse
        for ours, theirs in reversed(pairs):
            start = {"kernel_initializer": "lecun_uniform"}  # the authors' for all but the gates
            middle = TapSpec(theirs.layer, (*theirs.shape[:3], width))
            self.to_middle.append(chain(ours, convolution(width, **start), batch_norm(), name="to_middle"))
            self.to_teacher.append(
                chain(middle, convolution(theirs.shape[-1], 3, **start), batch_norm(), name="to_teacher")
            )
            if len(self.to_middle) > 1:
                both = TapSpec(ours.layer, (*ours.shape[:3], 2 * width))
                gate = convolution(2, use_bias=True, activation="sigmoid", **start)
                self.gates.append(chain(both, gate, name="gates"))
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        ours, theirs = ([_as_map(one) for one in side] for side in self.tensors(student, teacher))
        return reviewkd_loss(self.fused(ours), theirs) * ramp(step, self.warmup_epochs)

    def fused(self, maps: list[Tensor]) -> list[Tensor]:
        """The student's maps `(B, H, W, C)`, fused and of the teacher's shapes, in the same order."""
        results: list[Tensor] = []
        carried = None
        for level, (one, (size, target)) in enumerate(zip(reversed(maps), self.sizes)):
            x = self.to_middle[level](one, training=True)
            if level:
                carried = _resized(carried, size)
                share = self.gates[level - 1](ops.concatenate([x, carried], axis=-1))
                x = x * share[..., :1] + carried * share[..., 1:]
            carried = _resized(x, target)
            results.insert(0, self.to_teacher[level](carried, training=True))
        return results


def _map(spec: TapSpec) -> TapSpec:
    """What a tap delivers, a vector as a map of 1x1."""
    shape = (None, 1, 1, spec.shape[-1]) if len(spec.shape) == 2 else tuple(spec.shape)
    if len(shape) != 4 or None in shape[1:]:
        came = f"{spec.layer!r} {spec.shape}"
        raise ValueError(explain_mismatch("maps (B, H, W, C) of known size, or vectors (B, D)", came, 'tap "stages"'))
    return TapSpec(spec.layer, shape)


def _as_map(x: Tensor) -> Tensor:
    x = ops.cast(x, "float32")
    return x[:, None, None, :] if len(x.shape) == 2 else x


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """`(B, H, W, C)` to `(B, h, w, C)` by the nearest: row i is row i H / h, rounded down, as PyTorch has it."""
    if tuple(maps.shape[1:3]) == tuple(size):
        return maps
    rows, columns = (
        np.eye(length, dtype="float32")[np.arange(count) * length // count]
        for length, count in zip(maps.shape[1:3], size)
    )
    return ops.einsum("ih,bhwc,jw->bijc", rows, maps, columns)
