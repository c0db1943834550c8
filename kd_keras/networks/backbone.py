"""Freezes all layers of a network except its classifier, and makes them trainable as they were before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import keras

from kd_keras.errors import explain_mismatch
from kd_keras.networks.graph import is_walkable
from kd_keras.networks.stages import StagedGraph
from kd_keras.private_api import own_variables, sub_layers

Trainable: TypeAlias = Sequence[tuple[keras.layers.Layer, bool]]  # layers, and whether they are trainable


def freeze_backbone(network: keras.Model) -> int:
    """Makes all layers except the classifier not trainable, so that BatchNorm uses its moving statistics, too.

    Args:
        network: a built Functional or Sequential model; its layers are changed.

    Returns:
        The number of frozen layers with variables.

    Raises:
        ValueError: if the model is not a graph of layers, or if no single layer computes its logits.

    >>> layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3, name="logits")]
    >>> network = keras.Sequential(layers)
    >>> freeze_backbone(network), [layer.name for layer in network.layers if layer.trainable]
    (1, ['logits'])
    """
    if not is_walkable(network):
        received = f"{network.name!r}, a subclassed model ({type(network).__name__})"
        advice = "set trainable of its layers yourself"
        raise ValueError(explain_mismatch("a Functional or Sequential model to freeze", received, advice))
    classifier = StagedGraph(network).classifier().original
    count = 0
    for layer in sub_layers(network):
        if all(inner is not classifier for inner in sub_layers(layer)):
            layer.trainable = False
            count += bool(own_variables(layer))
    return count


def trainable_layers(network: keras.Model) -> Trainable:
    """Whether each layer of a network is trainable, outer layers first."""
    return [(layer, layer.trainable) for layer in sub_layers(network)]


def restore_trainable(trainable: Trainable) -> None:
    """Makes layers trainable as they were.

    Args:
        trainable: what `trainable_layers` returned before layers were frozen.

    >>> layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3, name="logits")]
    >>> network = keras.Sequential(layers)
    >>> before, _ = trainable_layers(network), freeze_backbone(network)
    >>> len(network.trainable_variables), restore_trainable(before), len(network.trainable_variables)
    (2, None, 4)
    """
    for layer, value in trainable:  # an outer layer sets those inside it, which come after it
        layer.trainable = value
