"""Networks that end in their embedding, as pretraining leaves them, and the classifier that is put on them.

Such a network declares its embedding by the name of its last layer, `embedding_out`, an identity unless the network has
a layer of that name itself. It consists of the layers of the network that was pretrained and of Keras's own layers, so
its file needs nothing else.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.networks.features import DECLARED_EMBEDDING
from kd_keras.networks.graph import functional, is_walkable
from kd_keras.networks.own_layers import on_own_layers
from kd_keras.networks.stages import StagedGraph
from kd_keras.private_api import nodes_in_order


def remove_classifier(network: keras.Model) -> keras.Model:
    """The network from its input to its embedding `(B, D)`, sharing its layers, without the classifier.

    The embedding is what the classifier reads, before dropout and averaged over height and width. Of a network without
    a classifier it is the output.

    Args:
        network: a Functional or Sequential model.

    Raises:
        ValueError: if it is another model, if no single layer computes its logits, or if its embedding is no vector.

    >>> body = [layers.Conv2D(4, 3), layers.ReLU(), layers.GlobalAveragePooling2D()]
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), *body, layers.Dense(10)])
    >>> remove_classifier(network).output_shape
    (None, 4)
    """
    if ends_in_embedding(network):
        return network
    if not is_walkable(network):
        received = f"{network.name!r}, a subclassed model ({type(network).__name__})"
        advice = "write it as a Functional model, so that its classifier can be taken off"
        raise ValueError(explain_mismatch("a Functional or Sequential model to pretrain", received, advice))
    graph = StagedGraph(network)
    tensor = graph.embedding()
    edge = graph.producer(tensor)
    is_mean = edge is not None and edge.operation is None  # of a map, over its height and width
    source = edge.sources[0] if edge is not None and is_mean else tensor
    if len(tensor.shape) != 2:
        received = f"{graph.spec(tensor).layer!r} {tuple(tensor.shape)}"
        raise ValueError(explain_mismatch(f"an embedding (B, D) of {network.name!r}", received))
    inputs, output = _own_tensor(network, graph, source)
    if is_mean:
        order = "channels_first" if graph.is_channels_first(source) else "channels_last"
        output = layers.GlobalAveragePooling2D(data_format=order, name="embedding_pool")(output)
    if graph.spec(source).layer.rsplit("/", 1)[-1] != DECLARED_EMBEDDING:
        output = layers.Identity(name=DECLARED_EMBEDDING)(output)
    return keras.Model(inputs, output, name=network.name)


def _own_tensor(network: keras.Model, graph: StagedGraph, tensor: Tensor) -> tuple[Any, Tensor]:
    """The inputs and a tensor of a network, whose nested models stay whole if the tensor is not inside of one.

    Some layers of KerasHub can be saved as parts of their backbone only.
    """
    path, own = graph.spec(tensor).layer, functional(network)
    outputs = [node.outputs for node in nodes_in_order(own) if node.operation.name == path]
    if len(outputs) == 1 and len(outputs[0]) == 1:
        return own.input, outputs[0][0]
    inputs, (output,) = on_own_layers(graph, [tensor])
    return inputs, output


def ends_in_embedding(network: keras.Model) -> bool:
    """Whether a network is one that `remove_classifier` made.

    >>> ends_in_embedding(keras.Sequential([keras.Input((4,)), layers.Identity(name="embedding_out")]))
    True
    """
    outputs = getattr(network, "outputs", None) or ()
    return len(outputs) == 1 and bool(network.layers) and network.layers[-1].name == DECLARED_EMBEDDING


def add_classifier(network: keras.Model, classes: int) -> keras.Model:
    """The network with a new linear classifier on its embedding, sharing its layers.

    Args:
        network: as `remove_classifier` makes it.
        classes: the number of classes K.

    Returns:
        A model from the same inputs to logits `(B, K)`.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), layers.GlobalAveragePooling2D(), layers.Dense(10)])
    >>> add_classifier(remove_classifier(network), 5).output_shape
    (None, 5)
    """
    network = functional(network)
    last = network.layers[-1]
    embedding = last.input if isinstance(last, layers.Identity) else network.outputs[0]
    name, taken = "logits", {layer.name for layer in network.layers}
    while name in taken:
        name += "_"
    return keras.Model(network.input, layers.Dense(classes, name=name)(embedding), name=network.name)
