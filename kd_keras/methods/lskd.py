"""LSKD: Sun, Ren, Li, Wang, Cao 2024, *Logit Standardization in Knowledge Distillation*, 2403.01427, algorithm 1."""

from __future__ import annotations

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, explain_mismatch, shorten
from kd_keras.methods.base import Method, MethodOptions, Specs, Taps
from kd_keras.methods.schedules import weight_at
from kd_keras.primitives import rounding_of, softened_kl

__all__ = ("LSKD", "lskd_loss", "standardized")


def standardized(logits: Tensor) -> Tensor:
    """(z - mean z) / (1e-7 + std z) over the classes, with gradients through the mean and the standard deviation.

    The standard deviation is the unbiased one, over K - 1, as in the authors' code; the one over K would change the
    temperature by 5 % for ten classes. Equal logits have no scale: they become zeros and get no gradient, while the
    authors' code multiplies their gradient by 1e7. With two classes only the order of the logits remains, and there is
    no gradient.

    Args:
        logits: `(B, K)` with K > 1, any float dtype; the computation is in float32.

    Returns:
        `(B, K)` float32, with mean 0 and standard deviation 1.

    >>> import numpy as np
    >>> standardized(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).numpy().round(4).tolist()
    [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    logits = ops.cast(logits, "float32")
    mean = ops.mean(logits, axis=-1, keepdims=True)
    centered = logits - mean
    variance = ops.sum(ops.square(centered), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    is_constant = variance <= rounding_of(mean)
    deviation = ops.sqrt(ops.where(is_constant, 1.0, variance))
    return ops.where(is_constant, 0.0, centered / (1e-7 + deviation))


def lskd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 2.0) -> Tensor:
    """T^2 KL(softmax(Z(z_t) / T) || softmax(Z(z_s) / T)): KD on standardized logits Z(z).

    Args:
        student: `(B, K)` logits z_s.
        teacher: `(B, K)` logits z_t.
        temperature: the base temperature T > 0; 2 in most of the published settings, 3 or 4 in some.

    Returns:
        `(B,)` float32, in nats times T^2, at least 0; its mean over the batch is the published loss.

    >>> import numpy as np
    >>> student, teacher = np.array([[1.0, 2.0, 4.0]]), np.array([[30.0, 20.0, 0.0]])
    >>> round(float(lskd_loss(student, 10 * student)[0]), 4), round(float(lskd_loss(student, teacher)[0]), 4)
    (0.0, 1.219)
    """
    return temperature**2 * softened_kl(standardized(student), standardized(teacher), temperature)


@keras.saving.register_keras_serializable("kd_keras")
class LSKD(Method):
    """KD, or another method on logits, after standardizing the logits of both sides: their pattern counts, not their
    size.

    There must be at least three classes.

    The defaults are those of most pairs in the CIFAR-100 tables, with a hard loss of 0.1; some pairs use temperature 3
    or 4, or a weight of 12: tune both. On ImageNet the defaults are used with a hard loss of 1.

    With a host, for example `LSKD(host=DKD())` and a hard loss of 1, the loss is the host's on standardized logits, at
    the host's temperature and times the host's weight, and the published hard weight is the host's. This follows the
    paper, in which 9 multiplies alpha and beta alike; the authors' script multiplies beta by alpha instead (81 if alpha
    is 1), and keeps DKD's temperature of 4.

    Args:
        host: another method that taps logits only; `None` for KD. Pass weight=1 to hosts whose default is 0.9, such as
            CTKD: their published weight with standardized logits is 9.
        temperature: T > 0, used without a host.
        **options: `weight`, by default 9, which multiplies the host's weight; `name`.

    >>> LSKD().weight
    9.0
    """

    allows_positions = False
    family = "logits"
    paper = "Sun, Ren, Li, Wang, Cao 2024, 2403.01427"
    default_weight = 9.0
    published_hard_weight = 0.1

    def __init__(self, *, host: Method | None = None, temperature: float = 2.0, **options: Unpack[MethodOptions]):
        super().__init__(**options)
        self.temperature = check_number("LSKD", "temperature", temperature, above=0)
        if host is not None:
            _check_host(host)
            self.across_replicas, self.needs_index = host.across_replicas, host.needs_index
            self.published_hard_weight = host.published_hard_weight
        self.host = host

    def bind(self, student: Specs, teacher: Specs) -> None:
        spec = student["logits"]
        if spec.shape[-1] == 2:
            expected = f"logits with three or more classes for method {self.name!r}"
            advice = "standardized, two logits differ between examples in their order only; use KD() instead"
            raise ValueError(explain_mismatch(expected, f"{spec.layer!r} {spec.shape}", advice))
        if self.host is not None:
            if self.host.built:
                expected = "LSKD(host=...) to be a new method"
                received = f"{self.host.name!r}, which was bound before"
                raise ValueError(explain_mismatch(expected, received, "create another one"))
            self.host.bind(student, teacher)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        if self.host is None:
            return lskd_loss(student["logits"], teacher["logits"], temperature=self.temperature)
        loss = self.host(_standardize(student), _standardize(teacher), batch, step)
        return ops.cast(weight_at(self.host.weight, step), "float32") * loss

    def get_config(self) -> dict:
        host = keras.saving.serialize_keras_object(self.host)
        return {**super().get_config(), "host": host}

    @classmethod
    def from_config(cls, config: dict) -> LSKD:
        return super().from_config({**config, "host": keras.saving.deserialize_keras_object(config["host"])})


def _standardize(side: Outputs) -> Outputs:
    """The standardized logits of a side and of each of several teachers."""
    return Outputs({"logits": standardized(side["logits"])}, members=map(_standardize, side.members))


def _check_host(host: Method) -> None:
    if not isinstance(host, Method):
        raise TypeError(explain_mismatch("LSKD(host=...) to be a method such as kd_keras.methods.DKD()", shorten(host)))
    if host.taps != Taps():
        received = f"{host.name!r}, which taps {host.taps.student} and {host.taps.teacher}"
        raise ValueError(explain_mismatch("LSKD(host=...) to tap logits alone", received, "pass DKD(), for example"))
