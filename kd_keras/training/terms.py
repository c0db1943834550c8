"""The terms of the loss: the hard loss and one for each method."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from keras import tree

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.distribute.reductions import gather_rows, replica_count
from kd_keras.errors import explain_mismatch
from kd_keras.methods.base import Method
from kd_keras.methods.labels import check_one_prediction, match_units
from kd_keras.methods.positions import exclude_ignored, mark_ignored
from kd_keras.methods.schedules import Weight, weight_at

RESERVED = ("hard", "loss", "regularization")  # other names in the logs
# A function of the student's output and the batch; returns `()`.
HardLoss: TypeAlias = Callable[[Any, Batch], Tensor]


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of the loss.

    Attributes:
        name: its name in the logs.
        weight: its factor, a number or a schedule.
        compute: a function of the student's output, the taps of student and teacher, the batch and the step; returns
            the loss without its weight, `(B,)`, `(B, ...)` or `()`.
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


def compute_terms(
    terms: Sequence[Term],
    output: Any,
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    step: Step,
    ignored: int | None = None,
) -> dict[str, tuple[Tensor | float, Tensor]]:
    """The weight at this step and the loss of every term by name.

    The methods know labels that do not count by -1; `ignored` is the class by which the hard loss knows them.
    """
    marked = batch._replace(label=mark_ignored(batch.label, ignored))
    losses = {
        term.name: term.compute(output, student, teacher, batch if term.name == "hard" else marked, step)
        for term in terms
    }
    return {term.name: (weight_at(term.weight, step), losses[term.name]) for term in terms}


def check_label_free_evaluation(methods: Sequence[Method]) -> None:
    """Checks that the terms of the methods can be evaluated without labels, on one replica and without side effects.

    Raises:
        ValueError: if there is no method, a method keeps a memory or moving statistics, or there are several replicas.
    """
    advice = "Pass labels with the data to evaluate, (x, y)."
    if not methods:
        raise ValueError(f"Evaluation needs labels, but the batch has none, and there is no method. {advice}")
    with_state = [method.name for method in methods if method.non_trainable_variables]
    if with_state:
        raise ValueError(
            "Without labels, evaluation computes the losses of the methods, but every computation changes the memory "
            f"or the statistics of {', '.join(with_state)}. {advice}"
        )
    if replica_count() > 1:
        raise ValueError(f"Evaluation without labels needs a single replica, but has {replica_count()}. {advice}")


def check_examples(method: Method, rows: int) -> None:
    """Checks that a batch has as many examples as a method compares.

    Raises:
        ValueError: if there are fewer, so that its loss is 0 and trains nothing.
    """
    if rows < method.least_examples:
        expected = f"batches of at least {method.least_examples} examples for method {method.name!r}"
        received = f"{rows}" if method.across_replicas else f"{rows} for each replica"
        advice = "the method compares the examples of a batch, and its loss would be 0: use a larger batch_size"
        raise ValueError(explain_mismatch(expected, received, advice))


def term_names(methods: Sequence[Method]) -> list[str]:
    """The name of each method's term: the method's name, or `<name>_2` if the logs have it already.

    >>> from kd_keras.methods import KD
    >>> term_names([KD(), KD()])
    ['kd', 'kd_2']
    """
    names: list[str] = []
    for method in methods:
        name, number = method.name, 1
        while name in (*RESERVED, *names):
            number += 1
            name = f"{method.name}_{number}"
        names.append(name)
    return names


def _method_term(name: str, method: Method) -> Term:
    def compute(output: Any, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        rows = tree.flatten(batch.inputs)[0].shape[0]
        if rows == 1 and replica_count() == 1:
            check_examples(method, rows)
        if not method.allows_positions:
            check_one_prediction(method.name, student["logits"].shape)
        if method.across_replicas and replica_count() > 1:
            student = Outputs(gather_rows({tap: student[tap] for tap in method.taps.student}))
            teacher = Outputs(gather_rows({tap: teacher[tap] for tap in method.taps.teacher}))
            gathered = gather_rows({field: getattr(batch, field) for field in ("label", "weight", "index")})
            batch = batch._replace(**gathered)
        if "logits" in method.taps.student and "logits" in method.taps.teacher:
            matched = match_units(teacher["logits"], student["logits"])
            teacher = Outputs({**teacher, "logits": matched}, members=teacher.members)
        loss = method(student, teacher, batch, step)
        if batch.weight is not None and len(loss.shape) == 0 and not method.weighs_examples:
            warnings.warn(
                f"Sample weights have no effect on the term {name!r}, because the method couples the examples of a "
                "batch. They hold for the other terms.",
                stacklevel=2,
            )
        return exclude_ignored(loss, batch.label)

    return Term(name, method.weight, compute)
