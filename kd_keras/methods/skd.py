"""SKD: Liu et al. 2019, *Structured Knowledge Distillation for Semantic Segmentation*, 1903.04197, pair-wise term."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import describe_pair
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.positions import valid_positions
from kd_keras.primitives import l2_normalize, resize_nearest

LOWEST = -1e30  # less than any feature


def skd_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, patch: float = 0.5) -> Tensor:
    """The mean over pairs (i, j) of patches of (a_t,ij - a_s,ij)^2, a_ij = f_i . f_j / (|f_i| |f_j|); equation 3.

    A patch's feature f_i is the maximum over its positions. Patches have the size floor(patch H) x floor(patch W), at
    least 1, and the last ones are smaller if it does not divide the map, so that patch = 1/2 gives 2 x 2 patches of an
    even map. The gradient includes that of the norms, as the equation does; the authors' code detaches them.

    Args:
        student: a map `(B, H, W, C)`.
        teacher: a map `(B, H', W', C')` with as many patches.
        valid: the positions of the student's map that take part, `(B, H, W)` bool, or `None` for all. A patch without
            any takes part in no pair. If the teacher's map has another size, they are resized to it.
        patch: the share of the map's sides, above 0 and at most 1.

    Returns:
        `(B,)` float32, at least 0. The mean over the batch is the authors' loss.

    >>> import numpy as np
    >>> same, other = np.ones((1, 1, 2, 2)), np.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # (B, H, W, C)
    >>> round(float(skd_loss(same, other)[0]), 4)  # 2 of 4 pairs differ by 1
    0.5
    """
    sides = []
    for maps in (student, teacher):
        mask = None if valid is None else valid_like(valid, maps)
        sides.append(_patches(maps, mask, patch))
    (student_patches, is_used), (teacher_patches, _) = sides
    gap = ops.square(_similarities(teacher_patches) - _similarities(student_patches))
    pairs = is_used[:, :, None] * is_used[:, None, :]
    return ops.sum(gap * pairs, axis=(1, 2)) / ops.maximum(ops.sum(pairs, axis=(1, 2)), 1.0)


def valid_like(valid: Tensor, maps: Tensor) -> Tensor:
    """Valid positions at the size of a map.

    >>> import numpy as np
    >>> valid_like(np.array([[[True, False]]]), np.zeros((1, 1, 4, 3))).numpy().tolist()
    [[[True, True, False, False]]]
    """
    return resize_nearest(valid, tuple(maps.shape[1:3]))


def patch_counts(size: tuple[int, int], patch: float) -> tuple[int, int]:
    """The numbers of patches along both sides of a map.

    >>> patch_counts((5, 8), 0.5)
    (3, 2)
    """
    return -(-size[0] // max(1, int(patch * size[0]))), -(-size[1] // max(1, int(patch * size[1])))


def _patches(maps: Tensor, valid: Tensor | None, patch: float) -> tuple[Tensor, Tensor]:
    """The maximum over the valid positions of each patch, `(B, P, C)`, and 1 for patches that have one, `(B, P)`."""
    maps = ops.cast(ops.convert_to_tensor(maps), "float32")
    if valid is not None:
        maps = ops.where(valid[..., None], maps, LOWEST)
    size, channels = maps.shape[1:3], maps.shape[3]
    counts, rest = patch_counts(size, patch), [[0, 0]]
    sides = [max(1, int(patch * length)) for length in size]
    rest += [[0, side * count - length] for side, count, length in zip(sides, counts, size, strict=True)]
    padded = ops.pad(maps, [*rest, [0, 0]], constant_values=LOWEST)
    cells = ops.reshape(padded, (-1, counts[0], sides[0], counts[1], sides[1], channels))
    highest = ops.reshape(ops.max(cells, axis=(2, 4)), (-1, counts[0] * counts[1], channels))
    is_used = ops.logical_not(highest[..., 0] <= LOWEST / 2)  # also if it is NaN
    return ops.where(is_used[..., None], highest, 0.0), ops.cast(is_used, "float32")


def _similarities(patches: Tensor) -> Tensor:
    unit = l2_normalize(patches)
    return ops.matmul(unit, ops.transpose(unit, (0, 2, 1)))


@keras.saving.register_keras_serializable("kd_keras")
class SKD(TapPairMethod):
    """The similarities between the patches of the student's map follow those of the teacher's.

    This is the pair-wise term. The pixel-wise term is KD or `Logits(form="soft_cross_entropy")`; the holistic term, a
    discriminator, is not offered. The widths of the maps may differ. If labels are masks, ignored positions are left
    out of the patches; the authors' code uses all.

    Args:
        patch: the size of a patch, a share of the map's sides; 0.5 in the authors' code.
        **options: `student_tap` and `teacher_tap`, by default the last stage; `weight`, by default 1 as in the authors'
            code, with a hard loss of 1 and pixel-wise and holistic terms; `name`.

    >>> SKD().patch
    0.5
    """

    family = "dense"
    paper = "Liu et al. 2019, 1903.04197"
    taps = Taps(("stages[-1]",), ("stages[-1]",))

    def __init__(self, *, patch: float = 0.5, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.patch = check_number("SKD", "patch", patch, above=0, most=1)

    def bind(self, student: Specs, teacher: Specs) -> None:
        pair = self.pair(student, teacher, rank=4)
        counts = [self._count(spec) for spec in pair]
        if counts[0] != counts[1]:
            expected = f"maps with the same number of patches for method {self.name!r}"
            received = f"{describe_pair(*pair)} with {counts[0]} and {counts[1]}"
            raise ValueError(explain_mismatch(expected, received, "tap maps of equal or even sizes"))
        super().bind(student, teacher)

    def _count(self, spec: TapSpec) -> tuple[int, int]:
        return patch_counts(spec.shape[1:3], self.patch)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (maps,), (teacher_maps,) = self.tensors(student, teacher)
        return skd_loss(maps, teacher_maps, valid_positions(batch.label, maps), patch=self.patch)
