"""DKD: Zhao, Cui, Song, Qiu, Liang 2022, *Decoupled Knowledge Distillation*, 2203.08679, equation 7."""

from __future__ import annotations

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Method
from kd_keras.methods.labels import target_mask
from kd_keras.methods.schedules import Weight, ramp
from kd_keras.primitives import softened_kl


def dkd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), the two parts of KD apart.

    With p = softmax(z / T) and y the right class, TCKD = KL(b_t || b_s) of the pairs b = [p_y, 1 - p_y], and
    NCKD = KL(q_t || q_s) of the distributions q over the other classes, q_j = p_j / (1 - p_y). T^2 is applied to both.

    Differs from the authors' code in that 1 - p_y enters by its logarithm, a log-sum-exp over the other classes, where
    theirs takes the logarithm of a sum of probabilities and is infinite or NaN for far logits; and in that y has no
    mass at all in q, where theirs lowers its z / T by 1000. Where theirs is finite, both are the same number.

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        labels: the right classes: integers `(B,)` or `(B, 1)`, or `(B, K)` of which the largest counts. The paper
            defines nothing for labels of several classes, as mixup makes them.
        alpha: weight of TCKD.
        beta: weight of NCKD.
        temperature: T > 0; 4 in the published CIFAR-100 tables, 1 on ImageNet.

    Returns:
        `(B,)` float32, in nats times T^2, 0 or more; its mean over the batch is the published loss.

    Raises:
        ValueError: where labels are missing or of another shape.

    >>> import numpy as np
    >>> student, teacher = np.array([[0.0, 4.0, 0.0]]), np.array([[4.0, 0.0, 2.0]])
    >>> round(float(dkd_loss(student, teacher, np.array([0]))[0]), 4)
    38.292
    """
    right = target_mask("DKD", labels, student)
    student, teacher = (ops.cast(z, "float32") / temperature for z in (student, teacher))
    (pair_s, others_s), (pair_t, others_t) = (_decoupled(z, right) for z in (student, teacher))
    return temperature**2 * (alpha * softened_kl(pair_s, pair_t) + beta * softened_kl(others_s, others_t))


def _decoupled(z: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `(B, 2)` of the right class against all others, and `(B, K)` of the others alone."""
    others = ops.where(right, ops.min(z, axis=-1, keepdims=True) - 1000.0, z)  # exp(-1000) is 0, and so its gradient
    one = ops.sum(ops.where(right, z, 0.0), axis=-1)
    return ops.stack([one, ops.logsumexp(others, axis=-1)], axis=-1), others


@keras.saving.register_keras_serializable("kd_keras")
class DKD(Method):
    """The student follows the teacher on how sure it is of the right class, and apart from that on all others.

    The defaults are those of the CIFAR-100 tables beside a hard loss of 1. `beta` is to be tuned: the tables have 2
    for residual networks of one family, 6 for wide residual networks and VGG, 8 for resnet32x4 and across
    architectures. ImageNet recipes use `temperature=1, warmup_epochs=1` and `beta=0.5` (ResNet-34 to 18) or
    `beta=2` (ResNet-50 to MobileNet).

    Args:
        alpha: weight of the right class's part.
        beta: weight of the other classes' part.
        temperature: T > 0.
        warmup_epochs: over how many epochs the loss grows to its size: it is multiplied by
            min((epoch + 1) / warmup_epochs, 1), `epoch` from 0; 0 for none.
        weight: as for every method, on top of `alpha` and `beta`.
        name: the term's name in the log.

    >>> DKD(beta=2.0).get_config()["beta"]
    2.0
    """

    family = "logits"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup_epochs: float = 20,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        self.alpha = check_number("DKD", "alpha", alpha)
        self.beta = check_number("DKD", "beta", beta)
        self.temperature = check_number("DKD", "temperature", temperature, above=0)
        self.warmup_epochs = check_number("DKD", "warmup_epochs", warmup_epochs, least=0)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        settings = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature}
        loss = dkd_loss(student["logits"], teacher["logits"], batch.label, **settings)
        return loss * ramp(step, self.warmup_epochs)
