"""KD: Hinton, Vinyals, Dean 2015, *Distilling the Knowledge in a Neural Network*, 1503.02531, section 2."""

from __future__ import annotations

import keras
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import describe_pair
from kd_keras.methods.base import Method, MethodOptions, Specs
from kd_keras.primitives import softened_binary_kl, softened_kl


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


def kd_binary_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd_loss` for units with a sigmoid each: T^2 sum_k KL(p_t,k || p_s,k), p = sigmoid(z / T) against 1 - p.

    Args:
        student: `(B, K)` logits z_s, before the sigmoid.
        teacher: `(B, K)` logits z_t.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2, at least 0.

    >>> import numpy as np
    >>> round(float(kd_binary_loss(np.array([[4.0]]), np.array([[0.0]]))[0]), 4)  # as kd_loss of (0, 4) and (0, 0)
    1.9218
    """
    return temperature**2 * softened_binary_kl(student, teacher, temperature)


@keras.saving.register_keras_serializable("kd_keras")
class KD(Method):
    """The student's softened logits follow the teacher's.

    The default weight of 0.9 is that of the published CIFAR-100 tables, with a hard loss of 0.1. ImageNet recipes use
    `temperature=1, weight=0.5` and a hard loss of 0.5.

    Args:
        temperature: T > 0.
        binary: whether each logit belongs to a sigmoid of its own, as in networks for several labels per image; the
            loss is then `kd_binary_loss`. It is also taken for a student of a single unit.
        **options: `weight` and `name`, as for every `Method`.

    >>> KD(temperature=2.0).temperature
    2.0
    """

    family = "logits"
    paper = "Hinton, Vinyals, Dean 2015, 1503.02531"
    default_weight = 0.9
    published_hard_weight = 0.1
    supports_binary = True

    def __init__(self, *, temperature: float = 4.0, binary: bool = False, **options: Unpack[MethodOptions]):
        super().__init__(**options)
        self.temperature = check_number("KD", "temperature", temperature, above=0)
        self.binary = bool(binary)

    def check_heads(self, student: Specs, teacher: Specs) -> None:
        super().check_heads(student, teacher)
        pair, name = (student["logits"], teacher["logits"]), f"KD(binary={self.binary})"
        width = pair[0].shape[-1]
        if self.is_binary and width != 1 and not self.binary:
            expected, advice = f"classes with one softmax for {name}", "pass KD(binary=True)"
            raise ValueError(explain_mismatch(expected, f"units with a sigmoid each: {describe_pair(*pair)}", advice))
        if self.binary and (pair[1].shape[-1] != width or "softmax" in (pair[0].activation, pair[1].activation)):
            expected, advice = f"the same units with a sigmoid each for {name}", "pass KD()"
            raise ValueError(explain_mismatch(expected, f"classes with one softmax: {describe_pair(*pair)}", advice))
        self.is_binary = self.is_binary or self.binary

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        loss = kd_binary_loss if self.is_binary else kd_loss
        return loss(student["logits"], teacher["logits"], temperature=self.temperature)
