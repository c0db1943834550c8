"""The terms of the loss: the hard loss and one for each method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from keras import tree

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.distribute.reductions import gather_rows, replica_count
from kd_keras.errors import explain_mismatch
from kd_keras.methods.base import Method
from kd_keras.methods.labels import match_units
from kd_keras.methods.schedules import Weight

# A function of the student's output and the batch; returns `()` or `(B,)`.
HardLoss: TypeAlias = Callable[[Any, Batch], Tensor]


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of the loss.

    Attributes:
        name: its name in the logs.
        weight: its factor, a number or a schedule.
        compute: a function of the student's output, the taps of student and teacher, the batch and the step; returns
            the loss without its weight, `(B,)` or `()`.
    """

    name: str
    weight: Weight
    compute: Callable[[Any, Outputs, Outputs, Batch, Step], Tensor]


def make_terms(hard_weight: Weight, hard_loss: HardLoss, methods: Sequence[Method]) -> tuple[Term, ...]:
    """Makes the terms of a Distiller's loss; there is none for a hard loss with the constant weight 0.

    Args:
        hard_weight: the weight of the hard loss.
        hard_loss: the loss of the labels, a function of the student's output and the batch.
        methods: the methods; each has one term, named by `term_names`.
    """
    terms = [_method_term(name, method) for name, method in zip(term_names(methods), methods, strict=True)]
    if not callable(hard_weight) and hard_weight == 0:
        return tuple(terms)
    return Term("hard", hard_weight, lambda output, student, teacher, batch, step: hard_loss(output, batch)), *terms


def term_names(methods: Sequence[Method]) -> list[str]:
    """The name of each method's term: the method's name, or `<name>_2` for a second method of that name.

    >>> from kd_keras.methods import KD
    >>> term_names([KD(), KD()])
    ['kd', 'kd_2']
    """
    names: list[str] = []
    for method in methods:
        name, number = method.name, 1
        while name in ("hard", *names):
            number += 1
            name = f"{method.name}_{number}"
        names.append(name)
    return names


def compute_compiled_loss(compiled: Callable[..., Tensor], output: Any, batch: Batch) -> Tensor:
    """The loss `()` that `compile` was given, of the student's output and the labels of a batch.

    Raises:
        ValueError: if the student has several outputs, and there is one loss or labels of one output only.
    """
    try:
        return compiled(batch.label, output, batch.weight)
    except KeyError as error:
        names = list(output) if isinstance(output, Mapping) else [*range(len(tree.flatten(output)))]
        expected = f"a loss for each output of the student that has labels; its outputs are {names}"
        advice = f"name the output of the labels, such as compile(loss={{{names[0]!r}: ...}}), or give labels by name"
        received = f"a loss that does not fit them ({' '.join(str(error).split())[:200]})"
        raise ValueError(explain_mismatch(expected, received, advice)) from error


def _method_term(name: str, method: Method) -> Term:
    def compute(output: Any, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        if method.across_replicas and replica_count() > 1:
            student = Outputs(gather_rows({tap: student[tap] for tap in method.taps.student}))
            teacher = Outputs(gather_rows({tap: teacher[tap] for tap in method.taps.teacher}))
            gathered = gather_rows({field: getattr(batch, field) for field in ("label", "weight", "index")})
            batch = batch._replace(**gathered)
        if "logits" in method.taps.student and "logits" in method.taps.teacher:
            matched = match_units(teacher["logits"], student["logits"])
            teacher = Outputs({**teacher, "logits": matched}, members=teacher.members)
        return method(student, teacher, batch, step)

    return Term(name, method.weight, compute)
