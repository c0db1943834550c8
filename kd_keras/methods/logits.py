"""Logits: the plain losses between logits, other than KD's.

Mean square: Ba, Caruana 2014, *Do Deep Nets Really Need to be Deep?*, 1312.6184, equation 1. Soft cross-entropy:
Hinton, Vinyals, Dean 2015, 1503.02531, section 2. Reverse KL: Gu et al. 2024, *MiniLLM*, 2306.08543, section 2.
Jensen-Shannon: Agarwal et al. 2024, *On-Policy Distillation of Language Models*, 2306.13649, equation 1 at one half.
"""

from __future__ import annotations

import math

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_choice, check_number
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions
from kd_keras.methods.labels import (
    check_same_classes,
    check_same_positions,
    match_units,
    name_heads,
    refuse_binary,
)
from kd_keras.primitives import softened_kl


def logits_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over classes of (z_s - z_t)^2 of raw logits. There is no temperature and no T^2: they would cancel.

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.

    Returns:
        `(B, ...)` float32, at least 0; its mean is the mean over all elements. The paper's sum over classes is K times
        as large.

    >>> import numpy as np
    >>> float(logits_mse_loss(np.array([[0.0, 4.0]]), np.array([[0.0, 0.0]]))[0])
    8.0
    """
    return ops.mean(ops.square(ops.cast(student, "float32") - ops.cast(teacher, "float32")), axis=-1)


def soft_cross_entropy_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """-T^2 sum_k p_t,k log p_s,k with p = softmax(z / T): KD's loss plus T^2 times the teacher's entropy.

    Differs from MMRazor's code, which stops the student's gradient, and from FKD's, which has no T^2.

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        temperature: T > 0.

    Returns:
        `(B, ...)` float32, in nats times T^2, at least T^2 times the teacher's entropy.

    >>> import numpy as np
    >>> round(float(soft_cross_entropy_loss(np.array([[0.0, 4.0]]), np.array([[4.0, 0.0]]))[0]), 4)
    3.9462
    """
    p_teacher = ops.softmax(ops.cast(teacher, "float32") / temperature, axis=-1)
    return temperature**2 * ops.sum(-p_teacher * _log_softmax(student, temperature), axis=-1)


def log_mse_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 times the mean over classes of (log p_t - log p_s)^2 with p = softmax(z / T).

    KD_Lib teaches students by assistants with this loss, where the paper (Mirzadeh et al. 2020, 1902.03393) has KL.

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        temperature: T > 0.

    Returns:
        `(B, ...)` float32, at least 0; its mean is the mean over all elements.

    >>> import numpy as np
    >>> round(float(log_mse_loss(np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]]))[0]), 4)
    0.3224
    """
    log_student, log_teacher = (_log_softmax(z, temperature) for z in (student, teacher))
    return temperature**2 * ops.mean(ops.square(log_teacher - log_student), axis=-1)


def reverse_kl_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p_s || p_t) with p = softmax(z / T): the student avoids what is unlikely according to the teacher.

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        temperature: T > 0.

    Returns:
        `(B, ...)` float32, in nats times T^2, at least 0.

    >>> import numpy as np
    >>> round(float(reverse_kl_loss(np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]]))[0]), 4)
    0.1438
    """
    return temperature**2 * softened_kl(teacher, student, temperature)


def jensen_shannon_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 (KL(p_s || m) + KL(p_t || m)) / 2 with m = (p_s + p_t) / 2 and p = softmax(z / T).

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        temperature: T > 0.

    Returns:
        `(B, ...)` float32, in nats times T^2, from 0 to T^2 log 2.

    >>> import numpy as np
    >>> round(float(jensen_shannon_loss(np.array([[0.0, 99.0]]), np.array([[99.0, 0.0]]))[0]), 4)
    0.6931
    """
    log_student, log_teacher = (_log_softmax(z, temperature) for z in (student, teacher))
    mean = (ops.exp(log_student) + ops.exp(log_teacher)) / 2
    return temperature**2 / 2 * ops.sum(mean * _class_term(log_teacher - log_student), axis=-1)


def _log_softmax(z: Tensor, temperature: float) -> Tensor:
    return ops.log_softmax(ops.cast(z, "float32") / temperature, axis=-1)


def _class_term(d: Tensor) -> Tensor:
    """(1 - u) log(1 - u) + (1 + u) log(1 + u) at u = tanh(d / 2), d = log p_t - log p_s: a class's part over m.

    It is at least 0, so that the parts of the classes never cancel. Each of its two forms is used in the range in which
    the other one loses digits.
    """
    is_far = ops.abs(d) > 1.0
    small, large = ops.where(is_far, 0.0, d), ops.where(is_far, ops.abs(d), 1.0)
    u = ops.tanh(small / 2)
    near_term = u * small + ops.log1p(-ops.square(u))
    far_term = 2 * (math.log(2.0) - ops.softplus(-large) - large * ops.sigmoid(-large))
    return ops.where(is_far, far_term, near_term)


FORMS = {
    "mse": None,  # of raw logits: it has no temperature
    "soft_cross_entropy": soft_cross_entropy_loss,
    "log_mse": log_mse_loss,
    "reverse_kl": reverse_kl_loss,
    "jensen_shannon": jensen_shannon_loss,
}


def logits_loss(student: Tensor, teacher: Tensor, *, form: str = "mse", temperature: float = 1.0) -> Tensor:
    """One of the plain losses by its name: "mse", "soft_cross_entropy", "log_mse", "reverse_kl" or "jensen_shannon".

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: logits z_t of the same shape.
        form: the name. All but "mse", from which the temperature cancels, have the factor T^2.
        temperature: T > 0.

    Returns:
        `(B, ...)` float32.

    Raises:
        ValueError: if the form is unknown.

    >>> import numpy as np
    >>> float(logits_loss(np.array([[0.0, 4.0]]), np.array([[0.0, 0.0]]))[0])
    8.0
    """
    loss = FORMS[check_choice("logits_loss", "form", form, FORMS)]
    return loss(student, teacher, temperature=temperature) if loss else logits_mse_loss(student, teacher)


@keras.saving.register_keras_serializable("kd_keras")
class Logits(TapPairMethod):
    """The student's logits follow the teacher's, by one of the plain losses.

    Ba and Caruana train with the mean square alone (`hard_weight=0`). The default weight of 1 is not published for any
    setting: tune it if there is a hard loss.

    Args:
        form: "mse", "soft_cross_entropy", "log_mse", "reverse_kl" or "jensen_shannon".
        temperature: T > 0; without effect on "mse".
        **options: `student_tap` and `teacher_tap`, by default "logits"; another output of the network or a layer's path
            names the logits of another head, summed over several. `weight` and `name`, as for every `Method`.

    >>> Logits(form="reverse_kl").form
    'reverse_kl'
    """

    family = "logits"
    paper = "Ba, Caruana 2014, 1312.6184"

    @property
    def supports_binary(self) -> bool:  # type: ignore[override]
        """Whether the form compares each logit by itself."""
        return self.form == "mse"

    def __init__(self, *, form: str = "mse", temperature: float = 1.0, **options: Unpack[TapPairOptions]):
        super().__init__(**name_heads(options))
        self.form = check_choice("Logits", "form", form, FORMS)
        self.temperature = check_number("Logits", "temperature", temperature, above=0)

    def check_heads(self, student: Specs, teacher: Specs) -> None:
        super().check_heads(student, teacher)
        for pair in self.pairs(student, teacher):
            check_same_positions(self.name, *pair)
            if check_same_classes(*pair) and not self.supports_binary:
                raise ValueError(refuse_binary(self.name, *pair))

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        pairs = zip(*self.tensors(student, teacher), strict=True)
        return sum(
            logits_loss(z, match_units(z_t, z), form=self.form, temperature=self.temperature) for z, z_t in pairs
        )
