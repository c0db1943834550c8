"""DKD: Zhao, Cui, Song, Qiu, Liang 2022, *Decoupled Knowledge Distillation*, 2203.08679, equation 7."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Method, MethodOptions
from kd_keras.methods.labels import target_mask
from kd_keras.methods.schedules import ramp
from kd_keras.primitives import softened_kl


def dkd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), the two parts of KD with separate weights.

    With p = softmax(z / T) and y the target class, TCKD = KL(b_t || b_s) of the pairs b = [p_y, 1 - p_y], and
    NCKD = KL(q_t || q_s) of the distributions over the other classes, q_j = p_j / (1 - p_y). Both have the factor T^2.

    Differs from the authors' code in two points: log(1 - p_y) is a log-sum-exp over the other classes, while that code
    takes the logarithm of a sum of probabilities, which is infinite or NaN for distant logits; and y has no mass in q,
    while that code subtracts 1000 from its z / T. Whenever that code is finite, both give the same number.

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        labels: the target classes: integers `(B, ...)` or `(B, ..., 1)`, or probabilities `(B, ..., K)`, whose largest
            entry is the target. A label that is not a class, such as -1, gives a loss of 0. The paper does not
            define the loss for mixed labels, such as those of mixup.
        alpha: the weight of TCKD.
        beta: the weight of NCKD.
        temperature: T > 0; 4 in the published CIFAR-100 tables, 1 on ImageNet.

    Returns:
        `(B, ...)` float32, in nats times T^2, at least 0; its mean over the batch is the published loss.

    Raises:
        ValueError: if labels are missing or have another shape.

    >>> import numpy as np
    >>> student, teacher = np.array([[0.0, 4.0, 0.0]]), np.array([[4.0, 0.0, 2.0]])
    >>> round(float(dkd_loss(student, teacher, np.array([0]))[0]), 4)
    38.292
    """
    is_target = target_mask("DKD", labels, student)
    student, teacher = (ops.cast(z, "float32") / temperature for z in (student, teacher))
    (pair_s, others_s), (pair_t, others_t) = (_decouple(z, is_target) for z in (student, teacher))
    loss = temperature**2 * (alpha * softened_kl(pair_s, pair_t) + beta * softened_kl(others_s, others_t))
    return ops.where(ops.any(is_target, axis=-1), loss, 0.0)


def _decouple(z: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `(B, 2)` of the target against all other classes, and `(B, K)` of the other classes only."""
    others = ops.where(is_target, ops.min(z, axis=-1, keepdims=True) - 1000.0, z)  # exp(-1000) and its gradient are 0
    target = ops.sum(ops.where(is_target, z, 0.0), axis=-1)
    return ops.stack([target, ops.logsumexp(others, axis=-1)], axis=-1), others


@keras.saving.register_keras_serializable("kd_keras")
class DKD(Method):
    """The student follows the teacher's confidence in the target class and, separately, its ranking of the others.

    The defaults are those of the CIFAR-100 tables, with a hard loss of 1. Tune `beta`: the tables use 2 for the
    residual networks of one family, 6 for WRN and VGG students and VGG-13 to MobileNetV2, 8 for the other pairs.
    ImageNet recipes use `temperature=1, warmup_epochs=1` and `beta=0.5` (ResNet-34 to ResNet-18) or `beta=2` (ResNet-50
    to MobileNet).

    Args:
        alpha: the weight of the target class's part.
        beta: the weight of the other classes' part.
        temperature: T > 0.
        warmup_epochs: the number of epochs of a linear warm-up, in which the loss is multiplied by
            min((epoch + 1) / warmup_epochs, 1) with `epoch` from 0; 0 for none.
        **options: `weight`, by default 1, which multiplies `alpha` and `beta`; `name`.

    >>> DKD(beta=2.0).get_config()["beta"]
    2.0
    """

    family = "logits"
    paper = "Zhao, Cui, Song, Qiu, Liang 2022, 2203.08679"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup_epochs: float = 20,
        **options: Unpack[MethodOptions],
    ):
        super().__init__(**options)
        self.alpha = check_number("DKD", "alpha", alpha)
        self.beta = check_number("DKD", "beta", beta)
        self.temperature = check_number("DKD", "temperature", temperature, above=0)
        self.warmup_epochs = check_number("DKD", "warmup_epochs", warmup_epochs, least=0)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        settings = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature}
        loss = dkd_loss(student["logits"], teacher["logits"], batch.label, **settings)
        return loss * ramp(step, self.warmup_epochs)
