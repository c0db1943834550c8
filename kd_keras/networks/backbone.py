"""Freezes all layers of a network except its classifier."""

from __future__ import annotations

import keras

from kd_keras.errors import explain_mismatch
from kd_keras.networks.graph import is_walkable
from kd_keras.networks.stages import StagedGraph
from kd_keras.private_api import own_variables, sub_layers


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
