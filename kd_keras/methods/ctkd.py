"""CTKD: Li et al. 2023, *Curriculum Temperature for Knowledge Distillation*, 2211.16231, its global temperature."""

from __future__ import annotations

import math

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Method, Specs
from kd_keras.methods.schedules import Weight, ramp
from kd_keras.primitives import softened_kl


def ctkd_loss(
    student: Tensor, teacher: Tensor, *, theta: float | Tensor = 1.0, start: float = 1.0, end: float = 20.0
) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) at T = start + end sigmoid(theta). T^2 is applied, and has a
    gradient to theta as well.

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        theta: `()`, any number; 1 is T = 15.6.
        start: the lowest temperature > 0.
        end: what is above it, so that the highest is `start + end`.

    Returns:
        `(B,)` float32, in nats times T^2, 0 or more; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> student, teacher = np.array([[0.0, 4.0]]), np.array([[4.0, 0.0]])
    >>> [round(float(ctkd_loss(student, teacher, theta=theta)[0]), 4) for theta in (-100.0, 0.0, 1.0)]
    [3.8561, 7.913, 7.9566]
    """
    temperature = start + end * ops.sigmoid(ops.cast(theta, "float32"))
    return temperature**2 * softened_kl(student, teacher, temperature)


@keras.saving.register_keras_serializable("kd_keras")
class CTKD(Method):
    """KD at a temperature that is trained against the student: it rises and falls to where the loss is larger.

    Owns one number theta, at first 1, that the optimizer moves with the student's variables, and to which weight decay
    applies as to them. Its gradient is multiplied by lambda, which goes by a half cosine from 0 to -1: lambda =
    (cos(pi min((epoch + 1) / ramp_epochs, 1)) - 1) / 2, `epoch` from 0, as in the authors' code, whose first epoch is 1
    and so does not begin with 0 either.

    The defaults are those of the CIFAR-100 tables, beside a hard loss of 0.1; the ImageNet script has `weight=1,
    ramp_epochs=5` beside a hard loss of 1. The paper's temperature of each example apart is not here.

    Args:
        start: the lowest temperature > 0.
        end: what is above it, > 0; the highest is `start + end`.
        ramp_epochs: over how many epochs lambda goes to -1; 0 for -1 at once.
        weight: as for every method.
        name: the term's name in the log.

    >>> CTKD(end=10.0).get_config()["end"]
    10.0
    """

    family = "logits"
    published_hard_weight = 0.1

    def __init__(
        self,
        *,
        start: float = 1.0,
        end: float = 20.0,
        ramp_epochs: float = 10,
        weight: Weight = 0.9,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        self.start = check_number("CTKD", "start", start, above=0)
        self.end = check_number("CTKD", "end", end, above=0)
        self.ramp_epochs = check_number("CTKD", "ramp_epochs", ramp_epochs, least=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.theta = self.add_weight(name="theta", shape=(), initializer="ones")
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        theta, scale = ops.convert_to_tensor(self.theta), self._scale(step)
        theta = scale * theta + ops.stop_gradient((1.0 - scale) * theta)  # theta, with scale times its gradient
        return ctkd_loss(student["logits"], teacher["logits"], theta=theta, start=self.start, end=self.end)

    def _scale(self, step: Step) -> Tensor:
        """lambda, in [-1, 0]."""
        return (ops.cos(math.pi * ramp(step, self.ramp_epochs)) - 1.0) / 2
