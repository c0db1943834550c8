"""Checks the arguments of `fit`, `evaluate` and `predict`: data without an end, and validation that cannot work."""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from kd_keras.contracts import as_batch
from kd_keras.distribute.reductions import replica_count
from kd_keras.errors import explain_mismatch
from kd_keras.methods.base import Method
from kd_keras.networks.inputs import check_inputs
from kd_keras.private_api import has_unweighted_metrics
from kd_keras.training.terms import check_label_free_evaluation


def check_fit_arguments(
    student: keras.Model, arguments: Mapping[str, Any], methods: list[Method], evaluates_labels: bool
) -> None:
    """Checks the data of a `fit`.

    Args:
        student: the network that reads the data.
        arguments: the arguments of `fit` by name.
        methods: the methods of the Distiller.
        evaluates_labels: whether there is a loss or a metric for labeled validation data.

    Raises:
        ValueError: if training or validation data has no end and no number of steps, or cannot be evaluated; if
            training data is empty, or is not what the student reads.
    """
    check_data_kinds(arguments, "fit")
    _check_examples(student, arguments.get("x"))
    check_end(arguments.get("x"), arguments.get("steps_per_epoch"), "fit", "steps_per_epoch")
    validation = arguments.get("validation_data")
    if validation is None and not arguments.get("validation_split"):
        return
    if isinstance(validation, (tuple, list)):
        check_data_kinds(dict(zip(("x", "y", "sample_weight"), validation, strict=False)), "fit(validation_data=...)")
    inputs = validation[0] if isinstance(validation, (tuple, list)) else validation
    check_end(inputs, arguments.get("validation_steps"), "fit", "validation_steps")
    has_labels = arguments.get("y") is not None if validation is None else _has_labels(validation)
    if has_labels is False:
        check_label_free_evaluation(methods)
    elif has_labels:
        check_has_measure(evaluates_labels)


def check_data_kinds(arguments: Mapping[str, Any], function: str) -> None:
    """Checks that data, labels and weights are arrays, that weights have labels, and that classes have weights >= 0.

    Keras drops the weights of arrays without labels.

    Args:
        arguments: those of the function by name: "x", "y", "sample_weight" and "class_weight".
        function: the name of the function.

    Raises:
        TypeError: if one of them is a list of numbers or texts.
        ValueError: if there are weights without labels, or a class has a weight that is negative or not finite.
    """
    for name in ("x", "y", "sample_weight"):
        if any(isinstance(value, (numbers.Number, str, bytes)) for value in tree.flatten(arguments.get(name))):
            expected, advice = f"an array as {name} of {function}", f"pass numpy.asarray({name})"
            raise TypeError(explain_mismatch(expected, f"a {type(arguments[name]).__name__} of values", advice))
    x, class_weight = arguments.get("x"), arguments.get("class_weight")
    is_array = not isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset, Iterator))
    has_labels = arguments.get("y") is not None if is_array else _has_labels(x)
    if has_labels is False and class_weight is not None:
        raise ValueError(explain_mismatch(f"labels beside class_weight in {function}", "none", "remove class_weight"))
    if is_array and not has_labels and arguments.get("sample_weight") is not None:
        advice = "keras drops weights without labels: pass a tf.data dataset of (x, None, weight)"
        raise ValueError(explain_mismatch(f"labels beside sample_weight in {function}", "none", advice))
    if isinstance(class_weight, Mapping):
        for label, weight in class_weight.items():
            if not (math.isfinite(weight) and weight >= 0):
                expected = "class_weight of finite numbers of at least 0"
                raise ValueError(explain_mismatch(expected, f"{weight:g} for class {label}", "correct it"))


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
    """Checks that there is a loss or a metric for labeled data.

    Raises:
        ValueError: if there is neither.
    """
    if not evaluates_labels:
        raise ValueError(
            "Evaluation needs a loss or metrics, but compile() received neither. Call compile(metrics=...)."
        )


def warn_of_padding(model: keras.Model, weight: Any) -> None:
    """Warns that metrics without weights count the rows that pad the last batch on several replicas."""
    if replica_count() > 1 and weight is not None and has_unweighted_metrics(model):
        warnings.warn(
            "The metrics of compile(metrics=...) do not use sample weights, so that they count the rows of weight 0 "
            "with which data.evaluation pads the last batch on several replicas. Pass them as weighted_metrics=.",
            stacklevel=2,
        )


def check_steps(function: Callable, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Checks that the data of a call of Keras's `evaluate` or `predict` ends, or that it has `steps`.

    Returns:
        The arguments by name.
    """
    arguments = inspect.signature(function).bind(*args, **options).arguments
    check_end(arguments.get("x"), arguments.get("steps"), function.__name__, "steps")
    return arguments


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
    if spec is None:
        return None
    absent = type(None), type(tf.type_spec_from_value(None))
    return isinstance(spec, tuple) and len(spec) > 1 and not isinstance(spec[1], absent)
