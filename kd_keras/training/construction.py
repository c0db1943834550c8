"""What a Distiller is made of: the kinds of its parts, and what of the student it does not use."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kd_keras.errors import explain_mismatch, shorten
from kd_keras.methods.base import Method
from kd_keras.networks.square_inputs import check_square_input
from kd_keras.private_api import own_variables, sub_layers
from kd_keras.recording.format import stored_classes
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.teacher import Teacher

UNUSED = ("train_step", "test_step", "compute_metrics")


def check_parts(student: Any, methods: Sequence[Any]) -> None:
    """Checks the kinds of student and methods, and warns of what the Distiller replaces.

    Raises:
        TypeError: if the student is no Keras model, or the methods are no list of `Method`.
        ValueError: if a method already belongs to another Distiller, or the student cannot be computed for its input.
    """
    if not isinstance(student, keras.Model):
        is_path = isinstance(student, (str, os.PathLike))
        advice = "Load the file with keras.saving.load_model(path)." if is_path else "Pass one built model."
        received = f"{shorten(student)} ({type(student).__name__})"
        raise TypeError(f"Distiller(student=...) must be a Keras model, but received {received}. {advice}")
    check_square_input(student)
    expected = "Distiller(methods=...) must be a list of methods such as kd_keras.methods.KD(), but received"
    if not isinstance(methods, (list, tuple)):
        received = f"{shorten(methods)} ({type(methods).__name__})"
        raise TypeError(f"{expected} {received}. Write methods=[...] with brackets, also for a single method.")
    for number, method in enumerate(methods):
        if not isinstance(method, Method):
            is_class = inspect.isclass(method) and issubclass(method, Method)
            advice = f"{method.__name__}(), an object" if is_class else "an object of a class in kd_keras.methods"
            raise TypeError(f"{expected} {shorten(method)} in the list. Pass {advice}.")
        if any(method is earlier for earlier in methods[:number]):
            raise ValueError(f"{expected} the method {method.name!r} twice. Make two of them.")
        if method.built:
            raise ValueError(
                f"Method {method.name!r} must be new, but it already belongs to another Distiller. Make another "
                f"{type(method).__name__}()."
            )
    own = [name for name in UNUSED if getattr(type(student), name) is not getattr(keras.Model, name)]
    if own:
        warnings.warn(
            f"The student {student.name!r} has its own {' and '.join(own)}, but a Distiller has a training step, an "
            "evaluation and metrics of its own and does not run them. It uses the student's call, compute_loss and "
            "predict_step: move what must be kept into these, into a Method or into the metrics of compile().",
            stacklevel=3,
        )


def loss_scaling_policy(student: keras.Model) -> Any:
    """The dtype policy by which Keras chooses whether the optimizer scales the loss.

    It is that of the student, unless the student was loaded or cloned: Keras keeps the policies of its layers only.
    """
    is_half = any(layer.compute_dtype == "float16" and own_variables(layer) for layer in sub_layers(student))
    return keras.DTypePolicy("mixed_float16") if is_half else student.dtype_policy


def check_combination(methods: Sequence[Method], student: Mapping[str, Any], teacher: Any) -> None:
    """Checks that several teachers are combined, and recorded logits stored, as the methods read them.

    The mean of probabilities is that of a softmax unless the teachers end in a sigmoid, and so is the recorded
    probability of the classes that are not among the largest.

    Args:
        methods: they are bound; or not yet, as for a recording, whose later students are not known.
        student: the specifications of its taps.
        teacher: it has the wanted taps.

    Raises:
        ValueError: if units with a sigmoid each are combined by a softmax, or were recorded with only the largest ones.
    """
    spec = teacher.specs.get("logits")
    if spec is None or spec.shape[-1] == 1 or spec.activation == "sigmoid" or not _has_sigmoids(methods, student):
        return
    recording = teacher.recording if isinstance(teacher, RecordedTeacher) else None
    if recording is None:
        combine = teacher.combine if isinstance(teacher, Teacher) and len(teacher.networks) > 1 else None
    else:
        combine = recording.combine
    if combine == "probabilities":
        raise ValueError(
            "Several teachers of units with a sigmoid each must end in that sigmoid, or be combined by logits, but"
            f" received logits of {spec.layer!r}. Pass combine='logits' to the teacher"
            f"{'' if recording is None else ', and record it again'}."
        )
    if recording is not None:
        check_storage(methods, student, recording.plan["logits"])


def check_storage(methods: Sequence[Method], student: Mapping[str, Any], logits: str) -> None:
    """Checks that logits are stored as the methods read them.

    Args:
        methods, student: as for `check_combination`.
        logits: the storage form.

    Raises:
        ValueError: if only the largest of units with a sigmoid each are stored.
    """
    reads_logits = any("logits" in method.taps.teacher for method in methods)
    if reads_logits and stored_classes(logits) is not None and _has_sigmoids(methods, student):
        expected = "the recorded logits of all units with a sigmoid each, which have no common softmax"
        raise ValueError(explain_mismatch(expected, f"logits={logits!r}", "record them with logits='float16'"))


def _has_sigmoids(methods: Sequence[Method], student: Mapping[str, Any]) -> bool:
    """Whether logits are units with a sigmoid each, as far as the student or a method says so."""
    head = student.get("logits")
    if head is not None and head.shape[-1] == 1:
        return False  # a single unit has two classes, which a teacher may have with one softmax
    return any(method.is_binary for method in methods) or (head is not None and head.activation == "sigmoid")
