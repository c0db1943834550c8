"""A teacher whose BatchNorm uses the statistics of each batch, as published tables of OFD have it."""

from __future__ import annotations

import copy
from typing import Any

import keras
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.networks.freezing import check_walkable
from kd_keras.networks.graph import Operation, functional, is_walkable
from kd_keras.private_api import forget_calls, sub_layers


@keras.saving.register_keras_serializable("kd_keras")
class BatchStatistics(layers.BatchNormalization):
    """BatchNorm that always normalizes by the mean and variance of the batch, and never changes its moving statistics.

    >>> round(float(ops.std(BatchStatistics()(ops.reshape(ops.arange(8.0), (4, 2)), training=False))), 2)
    1.0
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        x = ops.cast(inputs, "float32")
        axis = self.axis % len(x.shape)
        mean, variance = ops.moments(x, axes=[other for other in range(len(x.shape)) if other != axis])
        x = ops.batch_normalization(x, mean, variance, axis, self.beta, self.gamma, self.epsilon)
        return ops.cast(x, self.compute_dtype)


def with_batch_statistics(network: keras.Model) -> keras.Model:
    """A copy of a trained network whose BatchNorm layers normalize by the statistics of each batch in every call.

    The authors of OFD run their teacher in training mode, which does the same and also changes the teacher's moving
    statistics. Dropout stays off. The outputs depend on the batch, so that a recording of them is of no use.

    Args:
        network: a built Functional or Sequential model, nested or not; it is not changed.

    Returns:
        A model of the same inputs and outputs, not compiled and not trainable.

    Raises:
        ValueError: if the model is not a graph of layers, or a layer is quantized or adapted by LoRA.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    >>> [type(layer).__name__ for layer in with_batch_statistics(network).layers[-2:]]
    ['Conv2D', 'BatchStatistics']
    """
    check_walkable(network, "copy")
    duplicate = _copy_model(network, {})
    duplicate.set_weights(network.get_weights())
    for layer in sub_layers(duplicate):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # it computes with constants that it derives from its weights
    duplicate.trainable = False
    return duplicate


def _copy_model(model: keras.Model, copies: dict[int, Any]) -> keras.Model:
    """A copy of a model; layers that it calls several times are copied once."""

    def copy_once(operation: Operation) -> Operation:
        if id(operation) not in copies:
            copies[id(operation)] = _copy(operation, copies)
        return copies[id(operation)]

    bare = keras.Model(functional(model).input, functional(model).output, name=model.name)
    return keras.models.clone_model(bare, clone_function=copy_once)


def _copy(operation: Operation, copies: dict[int, Any]) -> Operation:
    if isinstance(operation, keras.Model) and is_walkable(operation):
        return _copy_model(operation, copies)
    if not isinstance(operation, layers.Layer):
        duplicate = copy.copy(operation)  # an operation has no weights, but remembers in which graphs it was called
        forget_calls(duplicate)
        return duplicate
    kind = BatchStatistics if isinstance(operation, layers.BatchNormalization) else type(operation)
    return kind.from_config(operation.get_config())
