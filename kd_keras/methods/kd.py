"""KD: Hinton, Vinyals, Dean 2015, *Distilling the Knowledge in a Neural Network*, 1503.02531, section 2."""

from __future__ import annotations

import keras
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions
from kd_keras.methods.labels import check_same_classes, name_heads
from kd_keras.primitives import softened_kl


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)).

    The factor T^2 keeps gradients at different temperatures comparable (section 2.1). The mean over the batch is the
    published loss ("batchmean").

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        temperature: T > 0; 4 in the published CIFAR-100 tables, 1 on ImageNet.

    Returns:
        `(B,)` float32, in nats times T^2, at least 0.

    >>> import numpy as np
    >>> round(float(kd_loss(np.array([[0.0, 4.0]]), np.array([[4.0, 0.0]]))[0]), 4)
    7.3939
    """
    return temperature**2 * softened_kl(student, teacher, temperature)


@keras.saving.register_keras_serializable("kd_keras")
class KD(TapPairMethod):
    """The student's softened logits follow the teacher's.

    The default weight of 0.9 is that of the published CIFAR-100 tables, with a hard loss of 0.1. ImageNet recipes use
    `temperature=1, weight=0.5` and a hard loss of 0.5.

    Args:
        temperature: T > 0.
        **options: `student_tap` and `teacher_tap`, by default "logits"; another output of the network or a layer's path
            names the logits of another head, summed over several. `weight` and `name`, as for every `Method`.

    >>> KD(temperature=2.0).temperature
    2.0
    """

    family = "logits"
    paper = "Hinton, Vinyals, Dean 2015, 1503.02531"
    default_weight = 0.9
    published_hard_weight = 0.1

    def __init__(self, *, temperature: float = 4.0, **options: Unpack[TapPairOptions]):
        super().__init__(**name_heads(options))
        self.temperature = check_number("KD", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        for pair in self.pairs(student, teacher):
            check_same_classes(*pair)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        pairs = zip(*self.tensors(student, teacher), strict=True)
        return sum(kd_loss(*pair, temperature=self.temperature) for pair in pairs)
