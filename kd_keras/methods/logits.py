"""Logits: the plain forms of following a teacher's logits, other than KD's.

Mean square: Ba, Caruana 2014, *Do Deep Nets Really Need to be Deep?*, 1312.6184, equation 1. Soft cross-entropy:
Hinton, Vinyals, Dean 2015, 1503.02531, section 2. Reverse KL: Gu et al. 2024, *MiniLLM*, 2306.08543, section 2.
Jensen-Shannon: Agarwal et al. 2024, *On-Policy Distillation of Language Models*, 2306.13649, equation 1 at one half.
"""

from __future__ import annotations

import math

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch, suggest
from kd_keras.methods.base import Method
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import mean_square, softened_kl


def logits_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over classes of (z_s - z_t)^2, of raw logits. No temperature and no T^2: they would cancel.

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the mean over all elements. The paper's sum over classes
        is K times that.

    >>> import numpy as np
    >>> float(logits_mse_loss(np.array([[0.0, 4.0]]), np.array([[0.0, 0.0]]))[0])
    8.0
    """
    return mean_square(student, teacher)


def soft_cross_entropy_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """-T^2 sum_k p_t,k log p_s,k, p = softmax(z / T): KD's loss plus the teacher's entropy. T^2 is applied.

    Differs from MMRazor's code, which cuts the student's gradient, and from FKD's, which has no T^2.

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2, at least T^2 times the teacher's entropy.

    >>> import numpy as np
    >>> round(float(soft_cross_entropy_loss(np.array([[0.0, 4.0]]), np.array([[4.0, 0.0]]))[0]), 4)
    3.9462
    """
    p_teacher = ops.softmax(ops.cast(teacher, "float32") / temperature, axis=-1)
    log_student = ops.log_softmax(ops.cast(student, "float32") / temperature, axis=-1)
    return temperature**2 * ops.sum(-p_teacher * log_student, axis=-1)


def reverse_kl_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p_s || p_t), p = softmax(z / T): the student avoids what the teacher thinks unlikely. T^2 is applied.

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2, 0 or more.

    >>> import numpy as np
    >>> round(float(reverse_kl_loss(np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]]))[0]), 4)
    0.1438
    """
    return temperature**2 * softened_kl(teacher, student, temperature)


def jensen_shannon_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 (KL(p_s || m) + KL(p_t || m)) / 2, m = (p_s + p_t) / 2 and p = softmax(z / T). T^2 is applied.

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats times T^2, from 0 to T^2 log 2.

    >>> import numpy as np
    >>> round(float(jensen_shannon_loss(np.array([[0.0, 99.0]]), np.array([[99.0, 0.0]]))[0]), 4)
    0.6931
    """
    log_student, log_teacher = (
        ops.log_softmax(ops.cast(z, "float32") / temperature, axis=-1) for z in (student, teacher)
    )
    mean = (ops.exp(log_student) + ops.exp(log_teacher)) / 2
    return temperature**2 / 2 * ops.sum(mean * _excess(log_teacher - log_student), axis=-1)


def _excess(d: Tensor) -> Tensor:
    """(1 - u) log(1 - u) + (1 + u) log(1 + u) at u = tanh(d / 2), d = log p_t - log p_s: a class's part over m.

    It is 0 or more, so that the classes' parts never cancel. Either form of it loses digits where the other is used.
    """
    far = ops.abs(d) > 1.0
    small, large = ops.where(far, 0.0, d), ops.where(far, ops.abs(d), 1.0)
    u = ops.tanh(small / 2)
    at_small = u * small + ops.log1p(-ops.square(u))
    at_large = 2 * (math.log(2.0) - ops.softplus(-large) - large * ops.sigmoid(-large))
    return ops.where(far, at_large, at_small)


FORMS = {
    "mse": None,  # of raw logits: it has no temperature
    "soft_cross_entropy": soft_cross_entropy_loss,
    "reverse_kl": reverse_kl_loss,
    "jensen_shannon": jensen_shannon_loss,
}


def logits_loss(student: Tensor, teacher: Tensor, *, form: str = "mse", temperature: float = 1.0) -> Tensor:
    """One of the plain forms, by its name: "mse", "soft_cross_entropy", "reverse_kl" or "jensen_shannon".

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        form: which. All but "mse", from which the temperature cancels, have T^2 applied.
        temperature: T > 0.

    Returns:
        `(B,)` float32.

    Raises:
        ValueError: for an unknown form.

    >>> import numpy as np
    >>> float(logits_loss(np.array([[0.0, 4.0]]), np.array([[0.0, 0.0]]))[0])
    8.0
    """
    if form not in FORMS:
        raise ValueError(explain_mismatch("a form of the logits' loss", repr(form), suggest(str(form), FORMS)))
    chosen = FORMS[form]
    return chosen(student, teacher, temperature=temperature) if chosen else logits_mse_loss(student, teacher)


@keras.saving.register_keras_serializable("kd_keras")
class Logits(Method):
    """The student's logits follow the teacher's, in one of the plain forms.

    Ba and Caruana train on the mean square alone (`hard_weight=0`). The weight's default is not tuned for any setting;
    beside a hard loss it must be.

    Args:
        form: "mse", "soft_cross_entropy", "reverse_kl" or "jensen_shannon".
        temperature: T > 0; without effect on "mse".
        weight: as for every method.
        name: the term's name in the log.

    >>> Logits(form="reverse_kl").form
    'reverse_kl'
    """

    family = "logits"

    def __init__(
        self, *, form: str = "mse", temperature: float = 1.0, weight: Weight = 1.0, name: str | None = None
    ):
        super().__init__(weight=weight, name=name)
        if form not in FORMS:
            raise ValueError(explain_mismatch("Logits(form=...) as one of the forms", repr(form), suggest(str(form), FORMS)))
        self.form = form
        self.temperature = check_number("Logits", "temperature", temperature, above=0)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        return logits_loss(student["logits"], teacher["logits"], form=self.form, temperature=self.temperature)
