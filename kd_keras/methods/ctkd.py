"""CTKD: Li et al. 2023, *Curriculum Temperature for Knowledge Distillation*, 2211.16231, its global temperature."""

from __future__ import annotations

import math

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Method, MethodOptions, Specs
from kd_keras.methods.schedules import ramp
from kd_keras.primitives import softened_kl


def ctkd_loss(
    student: Tensor, teacher: Tensor, *, theta: float | Tensor = 1.0, start: float = 1.0, end: float = 20.0
) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) at T = start + end sigmoid(theta). The factor T^2 has a gradient
    with respect to theta, too.

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        theta: `()`, any number; 1 gives T = 15.6.
        start: the lowest temperature, greater than 0.
        end: the range of temperatures; the highest is `start + end`.

    Returns:
        `(B, ...)` float32, in nats times T^2, at least 0; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> student, teacher = np.array([[0.0, 4.0]]), np.array([[4.0, 0.0]])
    >>> [round(float(ctkd_loss(student, teacher, theta=theta)[0]), 4) for theta in (-100.0, 0.0, 1.0)]
    [3.8561, 7.913, 7.9566]
    """
    temperature = start + end * ops.sigmoid(ops.cast(theta, "float32"))
    return temperature**2 * softened_kl(student, teacher, temperature)


@keras.saving.register_keras_serializable("kd_keras")
class CTKD(Method):
    """KD with a temperature that is trained against the student, towards a larger loss.

    The method owns one number theta, initially 1, which the optimizer updates with the student's variables, including
    weight decay. The gradient of theta is multiplied by lambda, which falls from 0 to -1 along a half cosine: lambda =
    (cos(pi min((epoch + 1) / ramp_epochs, 1)) - 1) / 2 with `epoch` from 0. The authors' code, which counts epochs from
    1, does not start with lambda = 0 either.

    The defaults are those of the CIFAR-100 tables, with a hard loss of 0.1; the ImageNet script uses `weight=1,
    ramp_epochs=5` and a hard loss of 1. The paper's temperature per example is not implemented.

    Args:
        start: the lowest temperature, greater than 0.
        end: the range of temperatures, greater than 0; the highest is `start + end`.
        ramp_epochs: the number of epochs until lambda is -1; 0 for -1 from the start.
        **options: `weight`, by default 0.9, and `name`.

    >>> CTKD(end=10.0).get_config()["end"]
    10.0
    """

    family = "logits"
    paper = "Li et al. 2023, 2211.16231"
    default_weight = 0.9
    published_hard_weight = 0.1

    def __init__(
        self, *, start: float = 1.0, end: float = 20.0, ramp_epochs: float = 10, **options: Unpack[MethodOptions]
    ):
        super().__init__(**options)
        self.start = check_number("CTKD", "start", start, above=0)
        self.end = check_number("CTKD", "end", end, above=0)
        self.ramp_epochs = check_number("CTKD", "ramp_epochs", ramp_epochs, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.theta = self.add_weight(name="theta", shape=(), initializer="ones")
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        theta, scale = ops.convert_to_tensor(self.theta), self._gradient_scale(step)
        theta = scale * theta + ops.stop_gradient((1.0 - scale) * theta)  # the value of theta, its gradient scaled
        return ctkd_loss(student["logits"], teacher["logits"], theta=theta, start=self.start, end=self.end)

    def _gradient_scale(self, step: Step) -> Tensor:
        """lambda, in [-1, 0]."""
        return (ops.cos(math.pi * ramp(step, self.ramp_epochs)) - 1.0) / 2
