"""The terms of the loss: the hard loss and one for each method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.distribute.reductions import gather_rows, replica_count
from kd_keras.methods.base import Method
from kd_keras.methods.schedules import Weight

HardLoss: TypeAlias = Callable[[Any, Batch], Tensor]  # from the student's output and the batch to `()` or `(B,)`


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of the loss.

    Attributes:
        name: its name in the logs.
        weight: what it is multiplied by, a number or a schedule.
        compute: from the student's output, the taps of student and teacher, the batch and the step to the loss before
            its weight, `(B,)` or `()`.
    """

    name: str
    weight: Weight
    compute: Callable[[Any, Outputs, Outputs, Batch, Step], Tensor]


def make_terms(hard_weight: Weight, hard_loss: HardLoss, methods: Sequence[Method]) -> tuple[Term, ...]:
    """Makes the terms of a Distiller's loss; a hard loss of constant weight 0 is none of them.

    Args:
        hard_weight: the weight of the hard loss.
        hard_loss: from the student's output and the batch to the loss of the labels.
        methods: one term each, named by `term_names`.
    """
    terms = [_method_term(name, method) for name, method in zip(term_names(methods), methods, strict=True)]
    if not callable(hard_weight) and hard_weight == 0:
        return tuple(terms)
    return Term("hard", hard_weight, lambda output, student, teacher, batch, step: hard_loss(output, batch)), *terms


def term_names(methods: Sequence[Method]) -> list[str]:
    """The name of each method's term: the method's own; a second method of one name is called `<name>_2`."""
    names: list[str] = []
    for method in methods:
        name, number = method.name, 1
        while name in ("hard", *names):
            number += 1
            name = f"{method.name}_{number}"
        names.append(name)
    return names


def _method_term(name: str, method: Method) -> Term:
    def compute(output: Any, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        if method.across_replicas and replica_count() > 1:
            student = Outputs(gather_rows({tap: student[tap] for tap in method.taps.student}))
            teacher = Outputs(gather_rows({tap: teacher[tap] for tap in method.taps.teacher}))
            gathered = gather_rows({field: getattr(batch, field) for field in ("label", "weight", "index")})
            batch = batch._replace(**gathered)
        return method(student, teacher, batch, step)

    return Term(name, method.weight, compute)
