"""KD: Hinton, Vinyals, Dean 2015, *Distilling the Knowledge in a Neural Network*, 1503.02531, section 2."""

from __future__ import annotations

import keras
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import describe_pair
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions
from kd_keras.methods.labels import check_same_classes, check_same_positions, match_units, name_heads
from kd_keras.primitives import softened_binary_kl, softened_kl


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)).

    The factor T^2 keeps gradients at different temperatures comparable (section 2.1). The mean over the batch is the
    published loss ("batchmean").

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        temperature: T > 0; 4 in the published CIFAR-100 tables, 1 on ImageNet.

    Returns:
        `(B, ...)` float32, in nats times T^2, at least 0.

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
class KD(TapPairMethod):
    """The student's softened logits follow the teacher's.

    The default weight of 0.9 is that of the published CIFAR-100 tables, with a hard loss of 0.1. ImageNet recipes use
    `temperature=1, weight=0.5` and a hard loss of 0.5. If labels are masks, the loss is the mean over the positions
    that they do not ignore; published code for segmentation uses the teacher's predictions at ignored ones, too.

    Args:
        temperature: T > 0.
        binary: whether each logit belongs to a sigmoid of its own, as in networks for several labels per image; the
            loss is then `kd_binary_loss`. It is also taken for a student of a single unit.
        **options: `student_tap` and `teacher_tap`, by default "logits"; another output of the network or a layer's path
            names the logits of another head, summed over several. `weight` and `name`, as for every `Method`.

    >>> KD(temperature=2.0).temperature
    2.0
    """

    family = "logits"
    paper = "Hinton, Vinyals, Dean 2015, 1503.02531"
    default_weight = 0.9
    published_hard_weight = 0.1
    supports_binary = True

    def __init__(self, *, temperature: float = 4.0, binary: bool = False, **options: Unpack[TapPairOptions]):
        super().__init__(**name_heads(options))
        self.temperature = check_number("KD", "temperature", temperature, above=0)
        self.binary = bool(binary)
        self.is_binary = self.binary  # also before `bind`, for a recording

    def check_heads(self, student: Specs, teacher: Specs) -> None:
        super().check_heads(student, teacher)
        self.heads_are_binary = [self._is_binary_pair(*pair) for pair in self.pairs(student, teacher)]
        self.is_binary = any(self.heads_are_binary)

    def _is_binary_pair(self, student: TapSpec, teacher: TapSpec) -> bool:
        """Whether a pair of heads has the loss of units with a sigmoid each; checks that `binary` agrees."""
        is_binary = check_same_classes(student, teacher)
        check_same_positions(self.name, student, teacher)
        received, name = describe_pair(student, teacher), f"KD(binary={self.binary})"
        width = student.shape[-1]
        if is_binary and width != 1 and not self.binary:
            expected, advice = f"classes with one softmax for {name}", "pass KD(binary=True)"
            raise ValueError(explain_mismatch(expected, f"units with a sigmoid each: {received}", advice))
        if self.binary and (teacher.shape[-1] != width or "softmax" in (student.activation, teacher.activation)):
            expected, advice = f"the same units with a sigmoid each for {name}", "pass KD()"
            raise ValueError(explain_mismatch(expected, f"classes with one softmax: {received}", advice))
        return is_binary or self.binary

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        pairs = zip(*self.tensors(student, teacher), self.heads_are_binary, strict=True)
        losses = ((s, match_units(t, s), kd_binary_loss if is_binary else kd_loss) for s, t, is_binary in pairs)
        return sum(loss(*pair, temperature=self.temperature) for *pair, loss in losses)
