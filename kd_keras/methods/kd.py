"""KD: Hinton, Vinyals, Dean 2015, *Distilling the Knowledge in a Neural Network*, 1503.02531, section 2."""

from __future__ import annotations

import keras

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Method
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import softened_kl


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)).

    T^2 keeps the gradient's size comparable over temperatures (section 2.1). The mean over the batch is the
    published loss ("batchmean").

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        temperature: T > 0; 4 in the published CIFAR-100 tables, 1 on ImageNet.

    Returns:
        `(B,)` float32, in nats times T^2, 0 or more.

    >>> import numpy as np
    >>> round(float(kd_loss(np.array([[0.0, 4.0]]), np.array([[4.0, 0.0]]))[0]), 4)
    7.3939
    """
    return temperature**2 * softened_kl(student, teacher, temperature)


@keras.saving.register_keras_serializable("kd_keras")
class KD(Method):
    """The student's softened logits follow the teacher's.

    The weight's default is that of the CIFAR-100 tables, where the hard loss weighs 0.1; ImageNet recipes use
    `temperature=1, weight=0.5` beside a hard loss of 0.5.

    >>> KD(temperature=2.0).temperature
    2.0
    """

    family = "logits"
    published_hard_weight = 0.1

    def __init__(self, *, temperature: float = 4.0, weight: Weight = 0.9, name: str | None = None):
        super().__init__(weight=weight, name=name)
        self.temperature = check_number("KD", "temperature", temperature, above=0)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return kd_loss(student["logits"], teacher["logits"], temperature=self.temperature)
