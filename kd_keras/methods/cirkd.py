"""CIRKD: Yang et al. 2022, *Cross-Image Relational Knowledge Distillation for Semantic Segmentation*, 2204.06986."""

from __future__ import annotations

import keras
from keras import layers, ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain, conv
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.class_memory import ClassMemory, means_per_class, sample_per_class
from kd_keras.methods.labels import class_indices
from kd_keras.methods.positions import as_mask, classes_at, mean_over_valid
from kd_keras.primitives import l2_normalize, resize_bilinear, softened_kl


def cirkd_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, temperature: float = 0.1) -> Tensor:
    """The mini-batch pixel-to-pixel loss: KL(softmax(t_p / T) || softmax(s_p / T)); equations 3 to 5.

    For each position p of an image, s_p and t_p are its cosines with all positions of one image of the batch. The loss
    is the mean over those images, itself included. The published loss is the mean over the positions, too.

    Args:
        student: a map `(B, H, W, C)`.
        teacher: a map `(B, H, W, C')`.
        valid: the positions that take part, `(B, H, W)` bool, or `None` for all; the loss of all others is 0.
        temperature: T > 0.

    Returns:
        `(B, H, W)` float32, in nats, at least 0. Memory: O((B H W)^2).

    >>> import numpy as np
    >>> student, teacher = np.array([[[[1.0, 0.0], [1.0, 0.0]]]]), np.eye(2).reshape(1, 1, 2, 2)
    >>> cirkd_loss(student, teacher, temperature=1.0).numpy().round(4).ravel()  # KL((.731, .269) || (.5, .5))
    array([0.1109, 0.1109], dtype=float32)
    """
    shape, valid = student.shape, None if valid is None else ops.cast(valid, "bool")
    images, positions = ops.shape(student)[0], shape[1] * shape[2]
    sides = []
    for maps in (student, teacher):
        rows = l2_normalize(ops.reshape(maps, (-1, maps.shape[-1])))
        scores = ops.reshape(ops.matmul(rows, ops.transpose(rows)), (-1, images, positions)) / temperature
        if valid is not None:
            scores = ops.where(ops.reshape(valid, (1, images, positions)), scores, -1e4)
        sides.append(scores)
    loss = ops.reshape(ops.mean(softened_kl(*sides), axis=-1), (-1, *shape[1:3]))
    return loss if valid is None else ops.where(valid, loss, 0.0)


def cirkd_memory_loss(
    student: Tensor,
    teacher: Tensor,
    memory: Tensor,
    is_filled: Tensor | None = None,
    *,
    temperature: float = 0.1,
    kd_temperature: float = 1.0,
) -> Tensor:
    """The memory-based loss: T_kd^2 KL(softmax(t_p / T_kd) || softmax(s_p / T_kd)); equations 6 to 11.

    s_p and t_p are the cosines of a position's features with the rows of a memory, divided by T.

    Args:
        student: features `(B, ..., C)`, in the teacher's space.
        teacher: features of the same shape.
        memory: unit vectors `(M, C)`, pixels or means of regions.
        is_filled: which rows take part, `(M,)` bool, or `None` for all.
        temperature: T > 0.
        kd_temperature: T_kd > 0.

    Returns:
        `(B, ...)` float32, in nats, at least 0.

    >>> import numpy as np
    >>> round(float(cirkd_memory_loss(np.ones((1, 2)), np.eye(2)[:1], np.eye(2), temperature=1.0)[0]), 4)
    0.1109
    """
    memory = ops.cast(memory, "float32")
    sides = [ops.matmul(l2_normalize(side), ops.transpose(memory)) / temperature for side in (student, teacher)]
    if is_filled is not None:
        sides = [ops.where(is_filled, side, -1e4) for side in sides]
    return kd_temperature**2 * softened_kl(sides[0], sides[1], kd_temperature)


def pool_valid(maps: Tensor, valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The mean over the valid positions of each cell of `size` x `size`, and which cells have one.

    >>> maps, valid = pool_valid(ops.ones((1, 3, 2, 4)), ops.ones((1, 3, 2), "bool"), 2)
    >>> maps.shape, valid.shape
    (TensorShape([1, 2, 1, 4]), TensorShape([1, 2, 1]))
    """
    if size == 1:
        return maps, valid
    weight = ops.cast(valid, "float32")[..., None]
    parts = ops.concatenate([ops.cast(maps, "float32") * weight, weight], axis=-1)
    rows, columns, channels = parts.shape[1:]
    counts = -(-rows // size), -(-columns // size)
    padding = [[0, 0], [0, counts[0] * size - rows], [0, counts[1] * size - columns], [0, 0]]
    cells = ops.reshape(ops.pad(parts, padding), (-1, counts[0], size, counts[1], size, channels))
    total = ops.sum(cells, axis=(2, 4))
    return total[..., :-1] / ops.maximum(total[..., -1:], 1.0), total[..., -1] > 0


@keras.saving.register_keras_serializable("kd_keras")
class CIRKD(TapPairMethod):
    """The student's similarities between pixels of different images follow the teacher's.

    Three terms: between the pixels of the batch, and of the batch's pixels with two memories of the teacher's features
    for each class, of pixels and of means of regions. For the memories, the student's features go through two trainable
    1x1 convolutions to the teacher's width. Labels must be masks `(B, H, W)`, or one class for each image; ignored
    pixels take part in nothing. The method gets the global batch.

    Differs from the authors' code: rows of a memory that are not filled yet are not drawn, where that code draws random
    vectors; rows are drawn with replacement; and the pixels that are stored for a class are pixels of that class (the
    code numbers the class's pixels, and stores the image's pixels of these numbers).

    Args:
        classes: K.
        temperature: T > 0.
        kd_temperature: T_kd > 0, of the memory terms.
        pooling: the side of the cells over which the maps are averaged for the mini-batch term.
        pixel_weight: the weight of the memory of pixels; that of the mini-batch term is 1.
        region_weight: the weight of the memory of regions.
        pixels: the rows of the memory of pixels for each class. It takes 4 K `pixels` C bytes for C channels of the
            teacher: 0.8 GB for the published 20000 at 19 classes and 512 channels. Less suits small sets.
        regions: the rows of the memory of regions for each class.
        added: the pixels of each class that are stored of an image.
        drawn_pixels: the rows that a step draws from the memory of pixels, K times (`drawn_pixels` // K + 1).
        drawn_regions: likewise, from the memory of regions.
        seed: of the draws; `None` for one drawn by Keras.
        **options: `student_tap` and `teacher_tap`, by default the last stage; `weight`, by default 1 as published, with
            a hard loss of 1 and KD (temperature 1, weight 1) on the logits; `name`.

    >>> CIRKD(classes=11).region_weight
    0.1
    """

    weighs_examples = True
    family = "dense"
    paper = "Yang et al. 2022, 2204.06986"
    taps = Taps(("stages[-1]",), ("stages[-1]",))
    across_replicas = True  # the memories must be equal on all replicas

    def __init__(
        self,
        *,
        classes: int,
        temperature: float = 0.1,
        kd_temperature: float = 1.0,
        pooling: int = 2,
        pixel_weight: float = 0.1,
        region_weight: float = 0.1,
        pixels: int = 20000,
        regions: int = 2000,
        added: int = 16,
        drawn_pixels: int = 4096,
        drawn_regions: int = 1024,
        seed: int | None = None,
        **options: Unpack[TapPairOptions],
    ):
        super().__init__(**options)
        self.classes = check_whole_number("CIRKD", "classes", classes, least=2)
        self.temperature = check_number("CIRKD", "temperature", temperature, above=0)
        self.kd_temperature = check_number("CIRKD", "kd_temperature", kd_temperature, above=0)
        self.pooling = check_whole_number("CIRKD", "pooling", pooling)
        self.pixel_weight = check_number("CIRKD", "pixel_weight", pixel_weight, least=0)
        self.region_weight = check_number("CIRKD", "region_weight", region_weight, least=0)
        self.pixels = check_whole_number("CIRKD", "pixels", pixels)
        self.regions = check_whole_number("CIRKD", "regions", regions)
        self.added = check_whole_number("CIRKD", "added", added)
        self.drawn_pixels = check_whole_number("CIRKD", "drawn_pixels", drawn_pixels)
        self.drawn_regions = check_whole_number("CIRKD", "drawn_regions", drawn_regions)
        self.seed = None if seed is None else check_whole_number("CIRKD", "seed", seed, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        student_spec, teacher_spec = self.pair(student, teacher, rank=4)
        width = teacher_spec.shape[-1]
        parts = conv(width), batch_norm(), layers.ReLU(dtype="float32"), conv(width)
        self.projection = chain(student_spec, *parts, name="projection")
        sizes = {"pixel_memory": self.pixels, "region_memory": self.regions}
        self.memories = [ClassMemory(self.classes, size, width, name=name) for name, size in sizes.items()]
        self.generator = keras.random.SeedGenerator(self.seed)
        self.drawn = self.generator.state  # a weight of this layer, so that a weights file contains it
        super().bind(student, teacher)

    def check_batch(self, batch: Batch) -> None:
        label = class_indices(batch.label) if (mask := as_mask(batch.label)) is None else mask
        if label is not None and int(ops.max(label)) >= self.classes:
            expected = (
                f"labels from 0 to {self.classes - 1}, or below 0 to be ignored, for CIRKD(classes={self.classes})"
            )
            raise ValueError(explain_mismatch(expected, f"the label {int(ops.max(label))}"))

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (maps,), (target,) = self.tensors(student, teacher)
        target = ops.cast(target, "float32")
        label = classes_at(batch.label, target, self.name)
        valid = label >= 0
        pooled, has_valid = pool_valid(resize_bilinear(maps, target.shape[1:3]), valid, self.pooling)
        pairs = cirkd_loss(pooled, pool_valid(target, valid, self.pooling)[0], has_valid, temperature=self.temperature)
        loss = mean_over_valid(pairs, has_valid, batch)
        projected = resize_bilinear(self.projection(maps, training=True), target.shape[1:3])
        for part in self._memory_losses(projected, l2_normalize(target), label):
            loss = loss + mean_over_valid(part, valid, batch)
        return loss

    def _memory_losses(self, student: Tensor, teacher: Tensor, label: Tensor) -> list[Tensor]:
        """The weighted losses `(B, H, W)` of both memories, which have first stored the batch."""
        settings = {"temperature": self.temperature, "kd_temperature": self.kd_temperature}
        stored = (
            sample_per_class(teacher, label, self.classes, self.added, self.generator),
            means_per_class(teacher, label, self.classes),
        )
        losses = []
        counts, weights = (self.drawn_pixels, self.drawn_regions), (self.pixel_weight, self.region_weight)
        for memory, rows, count, weight in zip(self.memories, stored, counts, weights, strict=True):
            memory.store(*rows)
            drawn, is_filled = memory.draw(count // self.classes + 1, self.generator)
            losses.append(weight * cirkd_memory_loss(student, teacher, drawn, is_filled, **settings))
        return losses
