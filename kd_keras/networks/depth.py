"""How deep in its network each variable is: 0 for the first layer with a kernel, 1 for the last one."""

from __future__ import annotations

import keras

from kd_keras.errors import explain_mismatch
from kd_keras.networks.features import has_kernel
from kd_keras.networks.graph import Graph, is_walkable


def relative_depths(network: keras.Model) -> list[tuple[keras.Variable, float]]:
    """The trainable variables of a network with their depths.

    The depth of a layer is the largest number of layers with kernels on a path from the image to it, itself included,
    scaled from 0 to 1; the depth of a single layer is 1. A layer without a kernel, such as BatchNorm, has that of the
    layer before it; the layers of a block that is one layer of the graph, as in KerasHub's transformers, have that of
    the block.

    Args:
        network: a built Functional or Sequential model.

    Raises:
        ValueError: if the model is not a graph of layers.

    >>> layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(8), keras.layers.Dense(3)]
    >>> [depth for _, depth in relative_depths(keras.Sequential(layers))]
    [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    """
    if not is_walkable(network):
        received = f"{network.name!r}, a subclassed model ({type(network).__name__})"
        raise ValueError(explain_mismatch("a Functional or Sequential model, whose layers have an order", received))
    graph = Graph(network)
    counts: dict[int, int] = {}  # by tensor
    steps: dict[int, tuple[keras.Variable, int]] = {}  # by variable; of a shared layer its first call
    for edge in graph.edges:
        count = max((counts.get(id(source), 0) for source in edge.sources), default=0)
        count += edge.original is not None and has_kernel(edge.original)
        counts.update((id(result), count) for result in edge.results)
        for variable in getattr(edge.original, "trainable_variables", ()):
            steps.setdefault(id(variable), (variable, count))
    last = max((count for _, count in steps.values()), default=1)
    return [(variable, max(0, count - 1) / (last - 1) if last > 1 else 1.0) for variable, count in steps.values()]
