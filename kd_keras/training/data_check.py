"""Checks the first batches of a `fit` before its first step: images, labels, sample weights and the batch size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kd_keras.contracts import as_batch
from kd_keras.errors import explain_mismatch
from kd_keras.methods.positions import mark_ignored
from kd_keras.private_api import compiled_loss, sub_layers, wrap_compiled_losses
from kd_keras.training.hard_loss import MeanLoss, ignored_class, is_cross_entropy, is_sparse_loss
from kd_keras.training.pixel_range import warn_of_pixel_range
from kd_keras.training.teacher_check import gather_local_rows
from kd_keras.training.terms import check_examples


def checked_batches(
    model: keras.Model, batches: Iterable[Any], skips_nonfinite: bool, is_distributed: bool
) -> Iterator[Any]:
    """The same batches; the iteration fails at a batch that cannot be trained on.

    Args:
        model: the compiled Distiller.
        batches: batches in any form that `fit` takes, for all replicas of this worker.
        skips_nonfinite: whether the training skips non-finite batches, so that no warning is needed.
        is_distributed: whether a batch is that of this worker's replicas, and not that of all replicas.

    Raises:
        ValueError: if a label or a sample weight is invalid, if the batches are too small for a method, or if a method
            rejects one.
    """
    largest = 0
    for number, data in enumerate(batches):
        data = gather_local_rows(model.distribute_strategy, data)
        batch = as_batch(data)
        place = f"batch {number}"
        if not skips_nonfinite:
            warn_of_nonfinite_images(batch.inputs, place)
        check_labels_and_weights(model, batch.label, batch.weight, place)
        marked = batch._replace(label=mark_ignored(batch.label, ignored_class(model)))
        for method in model.methods:
            method.check_batch(marked)
        if number == 0:
            preprocess = getattr(model.teacher, "preprocess", ())
            pairs = zip(getattr(model.teacher, "networks", ()), preprocess, strict=False)
            networks = [model.student, *(network for network, function in pairs if function is None)]
            warn_of_pixel_range(networks, batch.inputs)
        largest = max(largest, len(tree.flatten(batch.inputs)[0]))
        yield data
    if largest:
        strategy = model.distribute_strategy
        replicas = len(strategy.extended.worker_devices) if is_distributed else strategy.num_replicas_in_sync
        _check_batch_size(model, largest, largest // replicas)


def check_arrays(model: keras.Model, arguments: Mapping[str, Any], place: str = "the training data") -> None:
    """Checks all labels and sample weights that a function receives as arrays; of `fit` also those for validation.

    Args:
        model: the compiled Distiller.
        arguments: the arguments of the function by name.
        place: what the arrays are, for the error message.

    Raises:
        ValueError: if one of them is invalid.
    """
    check_labels_and_weights(model, arguments.get("y"), arguments.get("sample_weight"), place)
    validation = arguments.get("validation_data")
    if isinstance(validation, (tuple, list)):
        _, label, weight = keras.utils.unpack_x_y_sample_weight(tuple(validation))
        check_labels_and_weights(model, label, weight, "the validation data")


def warn_of_nonfinite_images(inputs: Any, place: str) -> None:
    """Warns if images contain NaN or infinity; the step that receives them fails, and only names its losses."""
    for images in tree.flatten(inputs):
        if "float" not in keras.backend.standardize_dtype(images.dtype):
            continue
        is_bad = ~np.isfinite(ops.convert_to_numpy(images).astype("float32")).reshape(len(images), -1).all(-1)
        if is_bad.any():
            warnings.warn(
                f"Expected finite images, but received NaN or infinity in {is_bad.sum()} of {len(images)} in {place}, "
                f"first in row {is_bad.argmax()}. Remove them, or skip such batches by NonFinite('skip').",
                stacklevel=2,
            )


def check_labels_and_weights(model: keras.Model, label: Any, weight: Any, place: str) -> None:
    """Checks labels of a cross-entropy or by the student itself, and that sample weights are finite and not negative.

    A student with a loss of its own may have a function `check_labels`, as `models.Recognizer` has.

    Raises:
        ValueError: if a value is invalid.
    """
    for values in tree.flatten(weight):
        if hasattr(values, "shape"):  # NaN is not at least 0 either
            _require(values, lambda w: w >= 0, "sample weights of at least 0", "remove or correct them", place)
    shape = getattr(model.student, "output_shape", None)
    if label is not None and model.hard_weight != 0 and hasattr(model.student, "check_labels"):
        model.student.check_labels(label)
    if label is None or tree.is_nested(label) or not isinstance(shape, tuple) or isinstance(shape[0], tuple):
        return
    losses = wrap_compiled_losses(model, MeanLoss) if compiled_loss(model) is not None else []
    if len(losses) == 1 and hasattr(label, "shape"):
        loss = losses[0].resolved(label, keras.KerasTensor(shape))
        if is_cross_entropy(loss) and shape[-1] > 1:
            _check_values(loss, label, shape, place)


def _check_values(loss: keras.losses.Loss, label: Any, shape: tuple, place: str) -> None:
    """Checks the labels of a cross-entropy: whole numbers below the number of classes, or probabilities."""
    if not is_sparse_loss(loss):
        expected = f"probabilities of at least 0 as labels for {loss.name!r}"
        _require(label, lambda values: values >= 0, expected, "correct them", place)
        return
    if len(label.shape) == len(shape) and label.shape[-1] != 1:
        return  # one-hot: the loss says so in its own words
    classes, ignored = shape[-1], getattr(loss, "ignore_class", None)

    def is_class(values: np.ndarray) -> np.ndarray:
        return ((values >= 0) & (values < classes) & (values == np.floor(values))) | (values == ignored)

    expected = f"labels that are whole numbers from 0 to {classes - 1} for {loss.name!r}"
    advice = "correct them, or pass ignore_class=... to the loss for labels that do not count"
    _require(label, is_class, expected, advice, place)


def _require(array: Any, is_valid: Callable[[np.ndarray], np.ndarray], expected: str, advice: str, place: str) -> None:
    """Checks all values of an array, some rows at a time, because labels of positions may be large."""
    rows = max(1, 2**22 // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        values = ops.convert_to_numpy(array[start : start + rows])
        is_invalid = ~is_valid(values)
        if is_invalid.any():
            row = start + int(np.argwhere(is_invalid)[0][0])
            received = f"{values[is_invalid][0]:g} in row {row} of {place}"
            raise ValueError(explain_mismatch(expected, received, advice))


def _check_batch_size(model: keras.Model, rows: int, rows_of_replica: int) -> None:
    """Checks that batches have several examples for each replica, as relational methods and BatchNorm need them."""
    for method in model.methods:
        check_examples(method, rows if method.across_replicas else rows_of_replica)
    layers = [layer for layer in sub_layers(model.student) if isinstance(layer, keras.layers.BatchNormalization)]
    if rows_of_replica <= 1 and any(layer.trainable and not layer.synchronized for layer in layers):
        warnings.warn(
            "Every batch has one example for each replica: the student's BatchNormalization normalizes it by its own "
            "statistics, which differ from those of inference. Use a larger batch_size.",
            stacklevel=2,
        )
