"""MLKD: Jin, Wang, Lin 2023, *Multi-Level Logit Distillation*, CVPR 2023, on one view."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.base import Method
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import softened_kl


def mlkd_loss(
    student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0)
) -> Tensor:
    """The sum over temperatures T of an instance, a class and a batch term.

    With S and T the softened probabilities `(B, K)` of student and teacher at one temperature: instance = T^2 times
    the mean over the batch of KL(p_t || p_s); class = ||S'S - T'T||_F^2 / K; batch = ||SS' - TT'||_F^2 / B. T^2 is
    applied to the instance term alone.

    Differs from the authors' code, which reads a weak and a strong view of each image, in that there is one view, on
    which each term counts once. Theirs, on two equal views, would be (1 + m) instance + n class + m batch: the masks
    for examples and classes of low confidence multiply a mean and not its parts, so that they scale it by the masks'
    shares m and n, about a half each, and choose nothing; in the instance terms of the strong view, those of the last
    two temperatures read the weak view; and the strong view's class and batch terms are computed and left out of the
    loss.

    Args:
        student: `(B, K)` logits.
        teacher: `(B, K)` logits.
        temperatures: T > 0, one or more.

    Returns:
        `()` float32, 0 or more. Memory: B^2 for each temperature.

    >>> import numpy as np
    >>> logits = np.array([[0.0, 4.0, 0.0], [4.0, 0.0, 2.0]])  # (B, K)
    >>> float(mlkd_loss(logits, logits)), round(float(mlkd_loss(logits, -logits)), 4)
    (0.0, 27.3894)
    """
    return sum(_aligned(student, teacher, temperature) for temperature in temperatures)


def _aligned(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The three terms at one temperature."""
    instance = temperature**2 * ops.mean(softened_kl(student, teacher, temperature))
    student, teacher = (ops.softmax(ops.cast(z, "float32") / temperature, axis=-1) for z in (student, teacher))
    return instance + _class_gap(student, teacher) + _batch_gap(student, teacher)


def _batch_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """||SS' - TT'||_F^2 / B.

    SS' - TT' is MD' + DM', where M is their mean and D their difference, so that no digits are lost where the two
    nearly agree.
    """
    half = ops.matmul((student + teacher) / 2, ops.transpose(student - teacher))
    return ops.sum(ops.square(half + ops.transpose(half))) / ops.cast(ops.shape(student)[0], "float32")


def _class_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """||S'S - T'T||_F^2 / K, without a matrix of classes.

    Of M'D + D'M as above the square is 2 sum (MM') * (DD') + 2 sum (DM') * (DM')', element by element: matrices of the
    batch alone.
    """
    mean, difference = (student + teacher) / 2, student - teacher
    means, differences, mixed = (
        ops.matmul(x, ops.transpose(y)) for x, y in ((mean, mean), (difference, difference), (difference, mean))
    )
    return 2 * ops.sum(means * differences + mixed * ops.transpose(mixed)) / student.shape[-1]


@keras.saving.register_keras_serializable("kd_keras")
class MLKD(Method):
    """The student's probabilities follow the teacher's, example by example, in the similarities of a batch's examples
    and in those of the classes, at several temperatures at once.

    The weight's default is the authors' for CIFAR-100, beside a hard loss of 0.1; their numbers are of two views of
    each image, and are not comparable with this one's. The class term grows with (B / K)^2: for larger batches or
    fewer classes than their 64 and 100 the weight must come down. On standardised logits
    (`LSKD(host=MLKD(weight=1.0))`) they have a weight of 9 and leave the logits of the class and batch terms as they
    are.

    Args:
        temperatures: T > 0, one or more.
        across_replicas: whether the class and batch terms see the global batch, or each replica its own.
        weight: as for every method.
        name: the term's name in the log.

    >>> MLKD(temperatures=(4, 2)).temperatures
    (4.0, 2.0)
    """

    family = "logits"
    published_hard_weight = 0.1

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
        across_replicas: bool = False,
        weight: Weight = 0.9,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        if not isinstance(temperatures, Sequence) or isinstance(temperatures, str) or not temperatures:
            raise ValueError(explain_mismatch("MLKD(temperatures=...) as one or more numbers", repr(temperatures), "(4.0,)"))
        self.temperatures = tuple(check_number("MLKD", "temperatures", each, above=0) for each in temperatures)
        self.across_replicas = bool(across_replicas)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return mlkd_loss(student["logits"], teacher["logits"], temperatures=self.temperatures)
