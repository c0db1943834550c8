"""WSLD: Zhou et al. 2021, *Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective*,
2102.00650, section 4."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Method, MethodOptions
from kd_keras.methods.labels import target_mask


def wsld_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 2.0) -> Tensor:
    """T^2 w CE(p_t, p_s): the soft cross-entropy, weighted by the ratio of the student's error to the teacher's.

    With p = softmax(z / T), CE(p_t, p_s) = -sum_k p_t,k log p_s,k, which is not a KL divergence: at p_s = p_t it is the
    entropy of p_t. w = 1 - exp(-CE_s / (CE_t + 1e-7)), where CE_s and CE_t are the cross-entropies with the label at
    temperature 1; w gets no gradient.

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        labels: the target classes: integers `(B, ...)` or `(B, ..., 1)`, or probabilities `(B, ..., K)`, whose largest
            entry is the target. A label that is not a class, such as -1, gives a loss of 0.
        temperature: T > 0.

    Returns:
        `(B, ...)` float32, in nats times T^2, at least 0; its mean over the batch is the published loss.

    Raises:
        ValueError: if labels are missing or have another shape.

    >>> import numpy as np
    >>> student, teacher = np.array([[0.0, 4.0]]), np.array([[4.0, 0.0]])
    >>> round(float(wsld_loss(student, teacher, np.array([0]))[0]), 4)
    7.5541
    """
    is_target = target_mask("WSLD", labels, student)
    student, teacher = (ops.cast(z, "float32") for z in (student, teacher))
    ratio = _cross_entropy(student, is_target) / (_cross_entropy(teacher, is_target) + 1e-7)
    weight = ops.stop_gradient(-ops.expm1(-ratio))
    p_teacher = ops.softmax(teacher / temperature, axis=-1)
    log_student = ops.log_softmax(student / temperature, axis=-1)
    loss = temperature**2 * weight * ops.sum(-p_teacher * log_student, axis=-1)
    return ops.where(ops.any(is_target, axis=-1), loss, 0.0)


def _cross_entropy(z: Tensor, is_target: Tensor) -> Tensor:
    """`(B,)`, computed as log(1 + (1 - p_y) / p_y), which keeps its digits if p_y is near 1."""
    others = ops.where(is_target, ops.min(z, axis=-1, keepdims=True) - 1000.0, z)
    return ops.softplus(ops.logsumexp(others, axis=-1) - ops.sum(ops.where(is_target, z, 0.0), axis=-1))


@keras.saving.register_keras_serializable("kd_keras")
class WSLD(Method):
    """The student follows the teacher's softened logits, less so on examples for which its own error is smaller than
    the teacher's.

    The defaults are the authors' for ImageNet, with a hard loss of 1.

    Args:
        temperature: T > 0.
        **options: `weight`, by default 2.5, and `name`.

    >>> WSLD().weight
    2.5
    """

    family = "logits"
    paper = "Zhou et al. 2021, 2102.00650"
    default_weight = 2.5

    def __init__(self, *, temperature: float = 2.0, **options: Unpack[MethodOptions]):
        super().__init__(**options)
        self.temperature = check_number("WSLD", "temperature", temperature, above=0)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return wsld_loss(student["logits"], teacher["logits"], batch.label, temperature=self.temperature)
