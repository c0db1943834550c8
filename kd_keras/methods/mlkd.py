"""MLKD: Jin, Wang, Lin 2023, *Multi-Level Logit Distillation*, CVPR 2023, on one view."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, shorten
from kd_keras.methods.base import Method, MethodOptions
from kd_keras.primitives import softened_kl


def mlkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
    relation_weight: float = 1.0,
) -> Tensor:
    """The sum over temperatures T of an instance term and, times `relation_weight`, a class and a batch term.

    With S and T the softened probabilities `(B, K)` of student and teacher at one temperature: instance = T^2 times
    the mean over the batch of KL(p_t || p_s); class = ||S'S - T'T||_F^2 / K; batch = ||SS' - TT'||_F^2 / B. Only the
    instance term has the factor T^2.

    Differs from the authors' code, which reads a weak and a strong view of each image. Here there is one view, on which
    each term counts once. On two equal views that code would compute (1 + m) instance + n class + m batch: its masks
    for examples and classes of low confidence multiply a mean instead of its parts, so that they scale the mean by the
    masked fractions m and n, about a half each, and select nothing; the instance terms of the strong view at the last
    two temperatures read the weak view; and the class and batch terms of the strong view are computed, but not added to
    the loss.

    Args:
        student: `(B, K)` logits.
        teacher: `(B, K)` logits.
        temperatures: one or more T > 0.
        relation_weight: the weight of the class and the batch term, at least 0.

    Returns:
        `()` float32, at least 0. Memory: B^2 for each temperature.

    >>> import numpy as np
    >>> logits = np.array([[0.0, 4.0, 0.0], [4.0, 0.0, 2.0]])  # (B, K)
    >>> float(mlkd_loss(logits, logits)), round(float(mlkd_loss(logits, -logits)), 4)
    (0.0, 27.3894)
    """
    return sum(_loss_at(temperature, student, teacher, relation_weight) for temperature in temperatures)


def _loss_at(temperature: float, student: Tensor, teacher: Tensor, relation_weight: float) -> Tensor:
    """The three terms at one temperature."""
    instance = temperature**2 * ops.mean(softened_kl(student, teacher, temperature))
    student, teacher = (ops.softmax(ops.cast(z, "float32") / temperature, axis=-1) for z in (student, teacher))
    return instance + relation_weight * (_class_term(student, teacher) + _batch_term(student, teacher))


def _batch_term(student: Tensor, teacher: Tensor) -> Tensor:
    """||SS' - TT'||_F^2 / B.

    SS' - TT' is MD' + DM' with their mean M and their difference D, which loses no digits if the two nearly agree.
    """
    half = ops.matmul((student + teacher) / 2, ops.transpose(student - teacher))
    return ops.sum(ops.square(half + ops.transpose(half))) / ops.cast(ops.shape(student)[0], "float32")


def _class_term(student: Tensor, teacher: Tensor) -> Tensor:
    """||S'S - T'T||_F^2 / K, without a K by K matrix.

    The squared norm of M'D + D'M is 2 sum (MM') * (DD') + 2 sum (DM') * (DM')', with element-wise products of B by B
    matrices.
    """
    mean, difference = (student + teacher) / 2, student - teacher
    means, differences, mixed = (
        ops.matmul(x, ops.transpose(y)) for x, y in ((mean, mean), (difference, difference), (difference, mean))
    )
    return 2 * ops.sum(means * differences + mixed * ops.transpose(mixed)) / student.shape[-1]


@keras.saving.register_keras_serializable("kd_keras")
class MLKD(Method):
    """The student's probabilities follow the teacher's for each example, in the similarities between the examples of a
    batch, and in those between classes, at several temperatures at once.

    The default weight of 0.9 is the authors' for CIFAR-100, with a hard loss of 0.1; their results are for two views of
    each image and not comparable with one view. Their hard loss counts both views, their class and batch terms only
    the weak one, times masks that are a half on average: a quarter of the weight relative to the hard loss, which is
    the default of `relation_weight`. The class term grows with (B / K)^2: for larger batches or fewer
    classes than their 64 and 100, reduce the weight. On standardized logits (`LSKD(host=MLKD(weight=1.0))`) they use a
    weight of 9 and do not standardize the logits of the class and batch terms.

    Args:
        temperatures: one or more T > 0.
        relation_weight: the weight of the class and the batch term relative to the instance term, at least 0.
        across_replicas: whether the class and batch terms use the global batch instead of the slice on each replica.
        **options: `weight`, by default 0.9, and `name`.

    Raises:
        ValueError: if there is no temperature, or if one is not positive.

    >>> MLKD(temperatures=(4, 2)).temperatures
    (4.0, 2.0)
    """

    allows_positions = False
    family = "logits"
    paper = "Jin, Wang, Lin 2023, CVPR"
    default_weight = 0.9
    published_hard_weight = 0.1

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
        relation_weight: float = 0.25,
        across_replicas: bool = False,
        **options: Unpack[MethodOptions],
    ):
        super().__init__(**options)
        if not isinstance(temperatures, Sequence) or isinstance(temperatures, str) or not temperatures:
            received = shorten(temperatures)
            raise ValueError(
                f"MLKD(temperatures=...) must be one or more numbers, as in (4.0,), but received {received}."
            )
        self.temperatures = tuple(check_number("MLKD", "temperatures", value, above=0) for value in temperatures)
        self.relation_weight = check_number("MLKD", "relation_weight", relation_weight, least=0)
        self.across_replicas = bool(across_replicas)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return mlkd_loss(
            student["logits"],
            teacher["logits"],
            temperatures=self.temperatures,
            relation_weight=self.relation_weight,
        )
