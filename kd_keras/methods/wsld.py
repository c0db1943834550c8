"""WSLD: Zhou et al. 2021, *Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective*,
2102.00650, section 4."""

from __future__ import annotations

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Method
from kd_keras.methods.labels import target_mask
from kd_keras.methods.schedules import Weight


def wsld_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 2.0) -> Tensor:
    """T^2 w CE(p_t, p_s): the soft cross-entropy, weighted by how the student's own error compares with the teacher's.

    With p = softmax(z / T), CE(p_t, p_s) = -sum_k p_t,k log p_s,k, which is no KL: at p_s = p_t it is the entropy of
    p_t. w = 1 - exp(-CE_s / (CE_t + 1e-7)), with CE_s and CE_t the cross-entropies to the label at temperature 1; no
    gradient flows through w. T^2 is applied.

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        labels: the right classes: integers `(B,)` or `(B, 1)`, or `(B, K)` of which the largest counts.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2, 0 or more; its mean over the batch is the published loss.

    Raises:
        ValueError: where labels are missing or of another shape.

    >>> import numpy as np
    >>> student, teacher = np.array([[0.0, 4.0]]), np.array([[4.0, 0.0]])
    >>> round(float(wsld_loss(student, teacher, np.array([0]))[0]), 4)
    7.5541
    """
    right = target_mask("WSLD", labels, student)
    student, teacher = (ops.cast(z, "float32") for z in (student, teacher))
    ratio = _error(student, right) / (_error(teacher, right) + 1e-7)
    weight = ops.stop_gradient(-ops.expm1(-ratio))
    p_teacher = ops.softmax(teacher / temperature, axis=-1)
    log_student = ops.log_softmax(student / temperature, axis=-1)
    return temperature**2 * weight * ops.sum(-p_teacher * log_student, axis=-1)


def _error(z: Tensor, right: Tensor) -> Tensor:
    """`(B,)` cross-entropies to the label, by log(1 + (1 - p_y) / p_y), which keeps its digits where p_y is near 1."""
    others = ops.where(right, ops.min(z, axis=-1, keepdims=True) - 1000.0, z)
    return ops.softplus(ops.logsumexp(others, axis=-1) - ops.sum(ops.where(right, z, 0.0), axis=-1))


@keras.saving.register_keras_serializable("kd_keras")
class WSLD(Method):
    """The student follows the teacher's softened logits, less on the examples that it knows better than the teacher.

    The defaults are the authors' for ImageNet, beside a hard loss of 1.

    Args:
        temperature: T > 0.
        weight: as for every method.
        name: the term's name in the log.

    >>> WSLD().weight
    2.5
    """

    family = "logits"

    def __init__(self, *, temperature: float = 2.0, weight: Weight = 2.5, name: str | None = None):
        super().__init__(weight=weight, name=name)
        self.temperature = check_number("WSLD", "temperature", temperature, above=0)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return wsld_loss(student["logits"], teacher["logits"], batch.label, temperature=self.temperature)
