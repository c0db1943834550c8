"""DIST: Huang, You, Wang, Qian, Xu 2022, *Knowledge Distillation from A Stronger Teacher*, 2205.10536, section 4."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Method, MethodOptions
from kd_keras.methods.positions import valid_positions
from kd_keras.primitives import l2_normalize


def dist_loss(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor | None = None,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """beta inter + gamma intra, which use Pearson correlations instead of KL.

    With y = softmax(z / tau), inter = 1 - mean_i rho(y_s,i, y_t,i) over the classes of each example i, and
    intra = 1 - mean_j rho(y_s,j, y_t,j) over the examples for each class j. rho(a, b) is the cosine of the centered
    vectors, with 1e-8 added to the product of their norms.

    There is no factor tau^2, as in the first version of the authors' code, in which tau is 1. Differs from a later
    revision of it and from torchdistill's and MMRazor's code, which multiply both terms by tau^2.

    Args:
        student: `(B, K)` logits, or `(B, ..., K)`, in which each position counts as an example.
        teacher: logits of the same shape.
        valid: the examples or positions that take part, `(B, ...)` bool, or `None` for all.
        beta: the weight of inter.
        gamma: the weight of intra.
        temperature: tau > 0.

    Returns:
        `()` float32, the published loss: 0 if all are fully correlated, beta + gamma if all are uncorrelated, at most
        twice that. For a batch of one example intra is 1, without a gradient.

    >>> import numpy as np
    >>> logits = np.array([[0.0, 4.0, 0.0], [4.0, 0.0, 2.0]])  # (B, K)
    >>> round(float(dist_loss(logits, logits)), 4), round(float(dist_loss(logits, -logits)), 4)
    (0.0, 3.838)
    """
    classes = student.shape[-1]
    rows = (ops.reshape(ops.cast(z, "float32"), (-1, classes)) for z in (student, teacher))
    student, teacher = (ops.softmax(z / temperature, axis=-1) for z in rows)
    inter = _one_minus_correlation(student, teacher)
    if valid is None:
        intra = _one_minus_correlation(ops.transpose(student), ops.transpose(teacher))
        return beta * ops.mean(inter) + gamma * ops.mean(intra)
    mask = ops.cast(ops.reshape(valid, (-1,)), "float32")
    count = ops.maximum(ops.sum(mask), 1.0)
    intra = _one_minus_correlation(ops.transpose(student), ops.transpose(teacher), mask, count)
    is_any = ops.cast(ops.any(valid), "float32")
    return beta * ops.sum(mask * inter) / count + gamma * is_any * ops.mean(intra)


def _one_minus_correlation(x: Tensor, y: Tensor, mask: Tensor | None = None, count: Tensor | None = None) -> Tensor:
    """1 - the Pearson correlation of each row; with a mask, over `count` of its entries.

    1 - cos(x, y) is half the squared difference of the unit vectors, which loses no digits if they nearly agree.
    """
    if mask is None:
        x, y = (rows - ops.mean(rows, axis=-1, keepdims=True) for rows in (x, y))
    else:
        x, y = (mask * (rows - ops.sum(mask * rows, axis=-1, keepdims=True) / count) for rows in (x, y))
    unit_x, unit_y = l2_normalize(x), l2_normalize(y)
    norms = ops.sum(unit_x * x, axis=-1) * ops.sum(unit_y * y, axis=-1)
    gap = ops.sum(ops.square(unit_x - unit_y), axis=-1) / 2
    return (norms * gap + 1e-8) / (norms + 1e-8)


@keras.saving.register_keras_serializable("kd_keras")
class DIST(Method):
    """The student's probabilities correlate with the teacher's, over the classes and over the examples of a batch.

    The default weight of 1 is used with a hard loss of 1, as in the authors' code for segmentation; the ImageNet recipe
    (ResNet-34 to ResNet-18) has `weight=2` and a hard loss of 1. In small batches the part over examples is noisy.

    Args:
        positions: whether the logits are `(B, ..., K)`, as for segmentation. Each position is then an example, without
            those that a mask of labels ignores. Otherwise such logits are refused, because examples of a batch and
            positions of one image are not the same to a correlation.
        beta: the weight of the part over classes.
        gamma: the weight of the part over examples.
        temperature: tau > 0; there is no factor tau^2.
        across_replicas: whether the part over examples uses the global batch instead of the slice on each replica.
        **options: `weight` and `name`, as for every `Method`.

    >>> DIST().temperature
    1.0
    """

    family = "logits"
    paper = "Huang, You, Wang, Qian, Xu 2022, 2205.10536"

    def __init__(
        self,
        *,
        positions: bool = False,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        across_replicas: bool = False,
        **options: Unpack[MethodOptions],
    ):
        super().__init__(**options)
        self.positions = self.allows_positions = bool(positions)
        self.beta = check_number("DIST", "beta", beta)
        self.gamma = check_number("DIST", "gamma", gamma)
        self.temperature = check_number("DIST", "temperature", temperature, above=0)
        self.across_replicas = bool(across_replicas)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        settings = {"beta": self.beta, "gamma": self.gamma, "temperature": self.temperature}
        logits = student["logits"]
        valid = valid_positions(batch.label, logits) if len(logits.shape) == 4 else None
        return dist_loss(logits, teacher["logits"], valid, **settings)
