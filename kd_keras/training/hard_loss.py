"""The compiled loss as a term: a mean over examples and positions, whatever its reduction and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from kd_keras.contracts import Tensor
from kd_keras.distribute.reductions import replica_count, weight_like
from kd_keras.errors import explain_mismatch
from kd_keras.private_api import compiled_loss, loss_of, wrap_compiled_losses


def compiled_mean(model: keras.Model, label: Any, output: Any, weight: Any, activation: str = "") -> Tensor:
    """The loss `()` that `compile` was given, divided by the number of replicas as Keras does it.

    Args:
        model: the compiled model.
        label: what the loss takes.
        output: the model's output.
        weight: sample weights `(B,)`, `(B, ...)` for positions, a structure of them for several outputs, or `None`.
        activation: what makes the output of logits, as in `TapSpec`, of a model with one output; "" if it is unknown.

    Raises:
        ValueError: if the loss takes logits for probabilities or probabilities for logits, if labels or weights have
            another shape than the loss needs, if a reduction has no meaning on several replicas, or if the model has
            several outputs, and there is one loss or labels of one output only.
    """
    for wrapped in wrap_compiled_losses(model, MeanLoss):
        wrapped.activation = "" if tree.is_nested(output) else activation
    try:
        return compiled_loss(model)(label, output, weight)
    except KeyError as error:
        names = list(output) if isinstance(output, Mapping) else [*range(len(tree.flatten(output)))]
        expected = f"a loss for each output of the student that has labels; its outputs are {names}"
        advice = f"name the output of the labels, such as compile(loss={{{names[0]!r}: ...}}), or give labels by name"
        received = f"a loss that does not fit them ({' '.join(str(error).split())[:200]})"
        raise ValueError(explain_mismatch(expected, received, advice)) from error


def ignored_class(model: keras.Model) -> int | None:
    """The class of labels that do not count in the compiled loss, if there is one loss and it has such a class."""
    losses = wrap_compiled_losses(model, MeanLoss) if compiled_loss(model) is not None else []
    return losses[0].ignored if len(losses) == 1 else None


def is_mean_over_rows(model: keras.Model) -> bool:
    """Whether a row of weight 0 makes the compiled loss smaller, because the rows are counted and not their weights."""
    return not {"sum", "mean_with_sample_weight"} & {loss.reduction for loss in wrap_compiled_losses(model, MeanLoss)}


class MeanLoss(keras.losses.Loss):
    """A loss of `compile` that Keras calls in its place.

    Keras multiplies sample weights `(B,)` along the last axis of a loss with positions, and returns a vector from a
    loss with the reduction "none". Here the weight of an example holds for all its positions, and an unreduced loss is
    averaged. "sum" and "mean_with_sample_weight" keep their meaning.

    Args:
        loss: a name, a function or a loss.
    """

    def __init__(self, loss: Any):
        super().__init__(name=getattr(loss, "name", None) or getattr(loss, "__name__", None) or str(loss))
        self.reduction = getattr(loss, "reduction", None) or "sum_over_batch_size"
        self._given = loss
        self.ignored: int | None = getattr(loss, "ignore_class", None)
        self.activation = ""
        self._loss: keras.losses.Loss | None = None

    def resolved(self, y_true: Any, y_pred: Any) -> keras.losses.Loss:
        """The loss itself, with a mean for the reduction "none"; Keras chooses "crossentropy" by the shapes."""
        if self._loss is None:
            loss = loss_of(self._given, y_true, y_pred)
            if loss.reduction in (None, "none"):
                loss = _copy(loss)
                loss.reduction = "sum_over_batch_size"
            self._loss = loss
        return self._loss

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        loss = self.resolved(y_true, y_pred)
        _check_replicas(self.name, self.reduction)
        check_from_logits(loss, self.activation)
        check_label_shape(loss, y_true, y_pred)
        weight = None if sample_weight is None else self._aligned(y_true, y_pred, sample_weight)
        value = loss(y_true, y_pred, weight)
        return ops.mean(value) / replica_count() if len(value.shape) else value

    def _aligned(self, y_true: Any, y_pred: Any, weight: Any) -> Any:
        """The weights in the rank of the values that the loss computes before it reduces them."""
        rank = None if tree.is_nested(weight) else tf.TensorShape(weight.shape).rank
        if rank is not None and rank < 2 and len(getattr(y_pred, "shape", ())) < 3:
            return weight
        values = _values(self._loss, y_true, y_pred)
        if len(values.shape) == 0:
            return weight
        weight = weight_like(values, weight)
        if self.reduction != "mean_with_sample_weight":
            return weight
        return weight * ops.ones(ops.shape(y_pred)[: len(values.shape)])  # it divides by the sum of the weights


def _copy(loss: keras.losses.Loss) -> keras.losses.Loss:
    """A copy that shares all attributes; `copy.copy` would save and load the loss, which functions do not allow."""
    copied = object.__new__(type(loss))
    copied.__dict__.update(loss.__dict__)
    return copied


def _values(loss: keras.losses.Loss, y_true: Any, y_pred: Any) -> tf.TensorSpec:
    """The shape of the values of a loss, from a trace that is not executed."""
    specs = tree.map_structure(lambda x: tf.TensorSpec(x.shape, loss.dtype), (y_true, y_pred))
    return tf.function(loss.call).get_concrete_function(*specs).structured_outputs


def _check_replicas(name: str, reduction: str) -> None:
    if replica_count() > 1 and reduction in ("sum", "mean_with_sample_weight"):
        received = f"{name!r} with reduction={reduction!r} on {replica_count()} replicas"
        advice = 'use reduction="sum_over_batch_size", whose gradients add up to those of the global batch'
        raise ValueError(explain_mismatch("a loss that is a mean over examples", received, advice))


def check_label_shape(loss: keras.losses.Loss, label: Any, prediction: Any) -> None:
    """Checks that a cross-entropy receives labels of its kind: classes for a sparse one, else probabilities.

    Raises:
        ValueError: if the shapes of labels and predictions do not fit; the message names the other loss.
    """
    if tree.is_nested(label) or tree.is_nested(prediction) or not is_cross_entropy(loss):
        return
    shape, positions = tuple(label.shape), tuple(prediction.shape)[:-1]
    is_sparse = is_sparse_loss(loss)
    fits = len(shape) == len(positions) or (len(shape) == len(positions) + 1 and shape[-1] in (1, None))
    if is_sparse and not fits:
        expected = f"labels of rank {len(positions)}, one class for each prediction, for {loss.name!r}"
        fitting = "CategoricalCrossentropy for one-hot labels, or pass labels.argmax(-1)"
    elif not is_sparse and len(shape) != len(positions) + 1:
        expected = f"labels of rank {len(positions) + 1}, probabilities of the classes, for {loss.name!r}"
        fitting = "SparseCategoricalCrossentropy for labels that are classes"
    else:
        return
    received = f"labels of shape {shape} for predictions of shape {tuple(prediction.shape)}"
    raise ValueError(explain_mismatch(expected, received, f"use {fitting}"))


def check_from_logits(loss: keras.losses.Loss, activation: str) -> None:
    """Checks that a cross-entropy takes logits for logits, and probabilities for probabilities.

    Args:
        loss: a loss of Keras.
        activation: "linear" if the output is known to be logits, "softmax" or "sigmoid" if it is probabilities, or "".

    Raises:
        ValueError: if it does not; with logits as probabilities, Keras clips them and trains on another loss.
    """
    if not activation or not (is_cross_entropy(loss) or _function_of(loss) is keras.losses.binary_crossentropy):
        return
    takes_logits = bool(getattr(loss, "from_logits", False))
    if takes_logits != (activation == "linear"):
        output = "logits" if activation == "linear" else f"probabilities, the result of a {activation}"
        expected = f"a loss with from_logits={not takes_logits} for a student that returns {output}"
        name = {"sparse_categorical_crossentropy": "SparseCategorical", "binary_crossentropy": "Binary"}
        kind = f"{name.get(_function_of(loss).__name__, 'Categorical')}Crossentropy"
        advice = f"pass loss=keras.losses.{kind}({'' if takes_logits else 'from_logits=True'})"
        raise ValueError(explain_mismatch(expected, f"{loss.name!r} with from_logits={takes_logits}", advice))


def is_sparse_loss(loss: Any) -> bool:
    """Whether a loss is a cross-entropy of labels that are classes."""
    return _function_of(loss) is keras.losses.sparse_categorical_crossentropy


def is_cross_entropy(loss: Any) -> bool:
    """Whether a loss is a cross-entropy over classes."""
    functions = (keras.losses.sparse_categorical_crossentropy, keras.losses.categorical_crossentropy)
    return _function_of(loss) in functions


def _function_of(loss: Any) -> Any:
    return getattr(loss, "fn", None)
