"""Markdown tables of the models of the zoo and of the methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import keras

from kd_keras import models
from kd_keras.contracts import TapSpec
from kd_keras.distiller import Distiller
from kd_keras.evaluation import macs
from kd_keras.evaluation.cost import saved_kilobytes
from kd_keras.methods import Method
from kd_keras.methods.listing import COLUMNS, describe_kind, list_kinds
from kd_keras.networks.taps import Tapped
from kd_keras.runs.parsing import parse_call, parse_method
from kd_keras.runs.run import load_network
from kd_keras.runs.students import is_saved

MODEL_HEAD = "| model | parameters | multiply-accumulates | kilobytes | stages |\n|---|---:|---:|---:|---|"


# ---- models


def zoo_table(image_shape: tuple[int, int, int], classes: int) -> Iterator[str]:
    """Yields the lines of a table of the costs of every model of the zoo."""
    size = ",".join(map(str, image_shape))
    yield f"{classes} classes, images of {size}; trainable parameters.\n\n{MODEL_HEAD}"
    for name in models.ZOO:
        yield model_row(name, models.build(name, image_shape, classes))
        keras.backend.clear_session()


def model_tables(text: str, image_shape: tuple[int, int, int], classes: int) -> str:
    """The costs of one model and its taps, as two tables.

    Args:
        text: a model of the zoo with options, a run or a `.keras` file.
        image_shape: `(H, W, C)` of the images, for a model of the zoo.
        classes: the number of classes, for a model of the zoo.
    """
    if is_saved(text):
        model = load_network(text)
    else:
        name, options = parse_call(text)
        model = models.build(name, image_shape, classes, **options)
    return f"{MODEL_HEAD}\n{model_row(text, model)}\n\n{tap_table(model)}\n"


def model_row(name: str, model: keras.Model) -> str:
    """The row of a model: its costs, and the shapes of its stages."""
    stages = " ".join(_shape(spec) for spec in tap_specs(model, "stages")) or "none"
    size = f"{saved_kilobytes(model):,.0f}"
    cells = [name, f"{count(model.trainable_variables):,}", f"{macs(model):,}", size, stages]
    return f"| {' | '.join(cells)} |"


def tap_table(model: keras.Model) -> str:
    """A table of the taps of a model: the layer that a tap reads and, for a stage, the layer before its activation."""
    lines = ["| tap | layer | shape | before its activation |", "|---|---|---|---|"]
    stages = tap_specs(model, "stages")
    for number, (spec, before) in enumerate(zip(stages, tap_specs(model, "stages:pre"), strict=True)):
        earlier = before.layer if before != spec else "nothing: stages:pre gives the same"
        lines.append(_tap_row(f"stages[{number}]", spec, earlier))
    lines += [_tap_row(tap, spec) for tap in ("embedding", "logits") for spec in tap_specs(model, tap)]
    return "\n".join(lines)


def tap_specs(model: keras.Model, tap: str) -> list[TapSpec]:
    """The specifications of a tap; empty if the model does not have it."""
    try:
        specs = Tapped(model, [tap]).specs[tap]
    except ValueError:
        return []
    return specs if isinstance(specs, list) else [specs]


def _tap_row(tap: str, spec: TapSpec, before: str = "") -> str:
    return f"| {tap} | {spec.layer} | {_shape(spec)} | {before} |"


def _shape(spec: TapSpec) -> str:
    return "x".join(map(str, spec.shape[1:]))


# ---- methods


def method_table(teacher: str, student: str, image_shape: tuple[int, int, int], classes: int) -> Iterator[str]:
    """Yields the lines of a table of all methods, with the parameters of their adapters for a pair of zoo models."""
    yield f"Trainable parameters of the adapters for {teacher} and {student}, {classes} classes.\n"
    columns = [*COLUMNS[:4], "adapters", *COLUMNS[4:]]
    yield "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|"
    # No method changes a network when it is bound. Teacher and student differ even if they have one name.
    teacher_model = models.build(teacher, image_shape, classes)
    build = functools.cache(lambda name: models.build(name, image_shape, classes))
    for kind in list_kinds():
        cells, adapters = describe_kind(kind), adapter_parameters(kind, teacher_model, student, build, classes)
        yield "| " + " | ".join([*cells[:4], adapters, *cells[4:]]) + " |"
        keras.backend.clear_session()


def adapter_parameters(
    kind: type[Method], teacher: keras.Model, student: str, build: Callable[[str], keras.Model], classes: int
) -> str:
    """How many trainable parameters a method adds to the student during training, or why it does not fit.

    If a method does not fit the student, the student is tried again with a classifier at each stage.
    """
    reason = ""
    for student_name in (student, f"multi_exit/{student}"):
        student_model = build(student_name)
        before = count(student_model.trainable_variables)
        method = parse_method(kind.__name__.lower(), examples=2, classes=classes)  # examples: of a memory, not trained
        try:
            student_model = method.student_from(student_model, teacher)
            Distiller(student=student_model, teacher=teacher, methods=[method])
        except ValueError as error:
            reason = reason or f"does not fit: {str(error).partition(chr(10))[0]}"
        else:
            return f"{count(method.trainable_variables) + max(count(student_model.trainable_variables) - before, 0):,}"
    return reason


def count(variables: Iterable) -> int:
    """The number of values in all variables."""
    return sum(int(keras.ops.size(variable)) for variable in variables)
