"""DGKD: Son et al. 2021, *Densely Guided Knowledge Distillation using Multiple Teacher Assistants*, 2009.08825."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_number, check_whole_number
from kd_keras.methods.base import Method, MethodOptions
from kd_keras.methods.labels import match_units
from kd_keras.primitives import softened_kl

PERIOD = 4096  # steps after which the random numbers repeat


def dgkd_loss(
    student: Tensor, teacher: Sequence[Tensor], *, kept: Tensor | None = None, temperature: float = 4.0
) -> Tensor:
    """The mean over the kept teachers t of T^2 KL(softmax(z_t / T) || softmax(z_s / T)).

    Args:
        student: `(B, ..., K)` logits z_s: `(B, K)`, or one prediction for each position.
        teacher: the logits z_t of each of N teachers, of the same shape.
        kept: `(N,)`, 1 for each teacher that is kept and 0 for each that is dropped, at least one of them 1; by default
            all are kept.
        temperature: T > 0.

    Returns:
        `(B, ...)` float32, in nats times T^2, at least 0.

    >>> import numpy as np
    >>> student, near, far = np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]]), np.array([[4.0, 0.0]])
    >>> [round(float(dgkd_loss(student, [near, far], kept=kept)[0]), 4) for kept in ((1, 0), (0, 1), (1, 1))]
    [0.124, 1.7751, 0.9496]
    """
    losses = ops.stack([temperature**2 * softened_kl(student, logits, temperature) for logits in teacher])
    kept = ops.ones(len(teacher)) if kept is None else ops.cast(kept, "float32")
    return ops.tensordot(kept / ops.sum(kept), losses, axes=1)


@keras.saving.register_keras_serializable("kd_keras")
class DGKD(Method):
    """The student follows each of several teachers, of which a random part is dropped in every step.

    The teachers are a teacher and its assistants, as `Teacher([teacher, assistant])` or as several teachers of
    `distill`. In every step each of them is dropped with the probability `drop`; if all would be, one is kept. The loss
    is the mean over the kept ones; the paper adds them up, each with a hard loss of its own, so that the ratio of hard
    loss and distillation is the same. With a single teacher the loss is that of KD, and so it is with recorded outputs,
    which contain only the combined logits of several teachers.

    Args:
        temperature: T > 0.
        drop: the probability with which a teacher is dropped, in [0, 1).
        seed: of the random numbers, which depend on the number of the step alone: all replicas drop the same teachers,
            and a resumed training drops those that it would have dropped.
        **options: `weight`, by default 0.9 as for KD, and `name`.

    >>> DGKD(drop=0.5).taps.teacher
    ('logits',)
    """

    family = "logits"
    paper = "Son et al. 2021, 2009.08825"
    default_weight = 0.9
    published_hard_weight = 0.1

    def __init__(
        self, *, temperature: float = 4.0, drop: float = 0.25, seed: int = 0, **options: Unpack[MethodOptions]
    ):
        super().__init__(**options)
        self.temperature = check_number("DGKD", "temperature", temperature, above=0)
        self.drop = check_number("DGKD", "drop", drop, least=0, below=1)
        self.seed = check_whole_number("DGKD", "seed", seed, least=0)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        logits = [member["logits"] for member in teacher.members] or [teacher["logits"]]
        logits = [match_units(member, student["logits"]) for member in logits]
        kept = self.kept_teachers(len(logits), step)
        return dgkd_loss(student["logits"], logits, kept=kept, temperature=self.temperature)

    def kept_teachers(self, count: int, step: Step) -> Tensor:
        """Which of the teachers are kept in a step: `(count,)` float32, 1 or 0, at least one of them 1."""
        draws = np.random.default_rng(self.seed).random((PERIOD, count), "float32")
        kept = np.maximum(draws >= self.drop, draws == draws.max(axis=1, keepdims=True)).astype("float32")
        return ops.take(ops.convert_to_tensor(kept), ops.mod(step.number, PERIOD), axis=0)
