"""Checks the arguments of `fit`, `evaluate` and `predict`: data without an end, and validation that cannot work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from kd_keras.contracts import as_batch
from kd_keras.errors import explain_mismatch
from kd_keras.methods.base import Method
from kd_keras.networks.inputs import check_inputs
from kd_keras.training.terms import check_label_free_evaluation


def check_fit_arguments(
    student: keras.Model, arguments: Mapping[str, Any], methods: list[Method], evaluates_labels: bool
) -> None:
    """Checks the data of a `fit`.

    Args:
        student: the network that reads the data.
        arguments: the arguments of `fit` by name.
        methods: the methods of the Distiller.
        evaluates_labels: whether there is a loss or a metric for labelled validation data.

    Raises:
        ValueError: if training or validation data has no end and no number of steps, or cannot be evaluated; if
            training data is empty, or is not what the student reads.
    """
    _check_examples(student, arguments.get("x"))
    check_end(arguments.get("x"), arguments.get("steps_per_epoch"), "fit", "steps_per_epoch")
    validation = arguments.get("validation_data")
    if validation is None and not arguments.get("validation_split"):
        return
    inputs = validation[0] if isinstance(validation, (tuple, list)) else validation
    check_end(inputs, arguments.get("validation_steps"), "fit", "validation_steps")
    has_labels = arguments.get("y") is not None if validation is None else _has_labels(validation)
    if has_labels is False:
        check_label_free_evaluation(methods)
    elif has_labels and not evaluates_labels:
        check_has_measure(evaluates_labels)


def _check_examples(student: keras.Model, data: Any) -> None:
    """Checks the shapes of arrays, or of the elements of a dataset, and that there are any."""
    if isinstance(data, tf.data.Dataset):
        is_empty, inputs = int(data.cardinality()) == 0, as_batch(data.element_spec).inputs
    elif all(isinstance(array, (np.ndarray, tf.Tensor)) for array in tree.flatten(data)):
        inputs = as_batch((data,)).inputs
        is_empty = any(len(array) == 0 for array in tree.flatten(inputs))
    else:
        return
    if is_empty:
        raise ValueError(explain_mismatch("at least one example to train on", "none", "check how the data is selected"))
    check_inputs(student, inputs)


def check_has_measure(evaluates_labels: bool) -> None:
    """Checks that there is a loss or a metric for labelled data.

    Raises:
        ValueError: if there is neither.
    """
    if not evaluates_labels:
        raise ValueError(
            "Evaluation needs a loss or metrics, but compile() received neither. Call compile(metrics=...)."
        )


def check_steps(function: Callable, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Checks that the data of a call of Keras's `evaluate` or `predict` ends, or that it has `steps`."""
    arguments = inspect.signature(function).bind(*args, **options).arguments
    check_end(arguments.get("x"), arguments.get("steps"), function.__name__, "steps")


def check_end(data: Any, steps: int | None, function: str, argument: str) -> None:
    """Checks that data ends, or that the number of steps is given.

    Raises:
        ValueError: if a dataset repeats for ever and `steps` is `None`.
    """
    if steps is not None:
        return
    if isinstance(data, tf.data.Dataset):
        is_endless = int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    else:
        is_endless = isinstance(data, keras.utils.PyDataset) and data.num_batches is None
    if is_endless:
        received = f"a {type(data).__name__} without an end and no {argument}"
        advice = f"pass {argument}, or remove repeat() from the dataset"
        raise ValueError(explain_mismatch(f"{function}({argument}=...) for data that repeats", received, advice))


def _has_labels(data: Any) -> bool | None:
    """Whether validation data has labels; `None` if that is known only after reading it."""
    if isinstance(data, (tuple, list)):
        return len(data) > 1 and data[1] is not None
    spec = getattr(data, "element_spec", None)
    return None if spec is None else isinstance(spec, tuple) and len(spec) > 1 and spec[1] is not None
