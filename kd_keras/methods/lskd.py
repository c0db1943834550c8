"""LSKD: Sun, Ren, Li, Wang, Cao 2024, *Logit Standardization in Knowledge Distillation*, 2403.01427, algorithm 1."""

from __future__ import annotations

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.base import Method, Specs, Taps
from kd_keras.methods.schedules import Weight, weight_at
from kd_keras.primitives import softened_kl


def standardized(logits: Tensor) -> Tensor:
    """(z - mean z) / (1e-7 + std z) over the classes, with gradients through mean and standard deviation.

    The standard deviation is the unbiased one, of K - 1, as in the authors' code; that of K would be another
    temperature, by 5 % for ten classes. Equal logits have no scale: they become zeros and get no gradient, where the
    authors' code multiplies their gradient by 1e7. Of two logits nothing but their order is left, and no gradient.

    Args:
        logits: `(B, K)`, K > 1, any float dtype; computed in float32.

    Returns:
        `(B, K)` float32, of mean 0 and standard deviation 1.

    >>> import numpy as np
    >>> standardized(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).numpy().round(4).tolist()
    [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    logits = ops.cast(logits, "float32")
    mean = ops.mean(logits, axis=-1, keepdims=True)
    centred = logits - mean
    variance = ops.sum(ops.square(centred), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    alive = variance > 1e-12 * ops.square(mean) + 1e-24  # more than the mean's rounding leaves of equal logits
    deviation = ops.sqrt(ops.where(alive, variance, 1.0))
    return ops.where(alive, centred / (1e-7 + deviation), 0.0)


def lskd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 2.0) -> Tensor:
    """T^2 KL(softmax(Z(z_t) / T) || softmax(Z(z_s) / T)): KD on standardised logits Z(z). T^2 is applied.

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        temperature: the base temperature T > 0; 2 in most of the published settings, 3 or 4 in some.

    Returns:
        `(B,)` float32, in nats times T^2, 0 or more; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> student, teacher = np.array([[1.0, 2.0, 4.0]]), np.array([[30.0, 20.0, 0.0]])
    >>> round(float(lskd_loss(student, 10 * student)[0]), 4), round(float(lskd_loss(student, teacher)[0]), 4)
    (0.0, 1.219)
    """
    return temperature**2 * softened_kl(standardized(student), standardized(teacher), temperature)


@keras.saving.register_keras_serializable("kd_keras")
class LSKD(Method):
    """KD, or another method on logits, on logits standardised on both sides: their pattern counts, not their size.

    There must be three classes or more.

    The defaults are those of most pairs of the CIFAR-100 tables, beside a hard loss of 0.1; some have temperature 3 or
    4, or a weight of 12, so both are to be tuned. On ImageNet they go with a hard loss of 1.

    With a host, such as `LSKD(host=DKD())` beside a hard loss of 1, the loss is the host's, of standardised logits at
    the host's temperature and times the host's weight. This follows the paper, in which 9 multiplies alpha and beta
    alike; the authors' script multiplies beta by alpha instead of beta (81 where alpha is 1), and leaves DKD's
    temperature at 4.

    Args:
        host: another method whose taps are the logits alone; `None` for KD.
        temperature: T > 0, without a host.
        weight: as for every method; on top of the host's own.
        name: the term's name in the log.

    >>> LSKD().weight
    9.0
    """

    family = "logits"
    published_hard_weight = 0.1

    def __init__(
        self,
        *,
        host: Method | None = None,
        temperature: float = 2.0,
        weight: Weight = 9.0,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        self.temperature = check_number("LSKD", "temperature", temperature, above=0)
        if host is not None and not isinstance(host, Method):
            raise TypeError(explain_mismatch("LSKD(host=...) as a method such as kd_keras.methods.DKD()", repr(host)))
        if host is not None and host.taps != Taps():
            came = f"{host.name!r}, which taps {host.taps.student} and {host.taps.teacher}"
            raise ValueError(explain_mismatch("LSKD(host=...) as a method on logits alone", came, "DKD() is one"))
        self.host = host
        if host is not None:
            self.across_replicas, self.needs_index = host.across_replicas, host.needs_index

    def bind(self, student: Specs, teacher: Specs) -> None:
        spec = student["logits"]
        if spec.shape[-1] == 2:
            remedy = "standardised, two logits are the same for every example but for their order; use KD()"
            raise ValueError(explain_mismatch("logits of three or more classes", f"{spec.layer!r} {spec.shape}", remedy))
        if self.host is not None:
            if self.host.built:
                came = f"{self.host.name!r}, bound before"
                raise ValueError(explain_mismatch("LSKD(host=...) as a method of its own", came, "make a new one"))
            self.host.bind(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        if self.host is None:
            return lskd_loss(student["logits"], teacher["logits"], temperature=self.temperature)
        student, teacher = (Outputs({"logits": standardized(side["logits"])}) for side in (student, teacher))
        loss = self.host(student, teacher, batch, step)
        return ops.cast(weight_at(self.host.weight, step), "float32") * loss

    def get_config(self) -> dict:
        host = keras.saving.serialize_keras_object(self.host)
        return {**super().get_config(), "host": host}

    @classmethod
    def from_config(cls, config: dict) -> LSKD:
        return super().from_config({**config, "host": keras.saving.deserialize_keras_object(config["host"])})
