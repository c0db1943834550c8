"""Several networks for the same images as one model: Zhang et al. 2018, *Deep Mutual Learning*, 1706.00384."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from kd_keras.errors import explain_mismatch
from kd_keras.models.base import MeanOfPredictions
from kd_keras.networks.graph import functional
from kd_keras.networks.taps import Tapped


def cohort(peers: Sequence[keras.Model], *, name: str = "cohort") -> keras.Model:
    """Joins networks to one model, which runs each of them once; `methods.DML` trains them together.

    The layers `"peer1"`, `"peer2"`, ... are the logits `(B, K)` of each network. The layers `"network1"`, `"network2"`,
    ... are models that share the layers of the given ones: `cohort.get_layer("network1")` is the first one, trained.

    Args:
        peers: two or more Functional or Sequential models from the same images to logits `(B, K)`, with different
            variables.
        name: the name of the model.

    Returns:
        A model from the images to `(B, K)` logits of the mean prediction: their softmax is the mean of the peers'
        softmax.

    Raises:
        ValueError: if there are fewer than two networks, or they differ in their images or classes.

    >>> from kd_keras.models.mlp import mlp
    >>> made = cohort([mlp((8, 8, 1), 10, hidden=(4,)), mlp((8, 8, 1), 10, hidden=(6,))])
    >>> made.output_shape, made.get_layer("network2").count_params()
    ((None, 10), 460)
    """
    if len(peers) < 2:
        raise ValueError(explain_mismatch("two or more networks in a cohort", str(len(peers))))
    peers = [functional(peer) for peer in peers]
    for peer in peers:
        activation = Tapped(peer, ["logits"]).specs["logits"].activation
        if activation in ("softmax", "sigmoid"):
            received = f"{peer.name!r}, which ends in a {activation}"
            raise ValueError(
                explain_mismatch("networks of logits in a cohort", received, "build it without that layer")
            )
    shapes = [(peer.input_shape, peer.output_shape) for peer in peers]
    if any(shape != shapes[0] for shape in shapes):
        expected = "networks of the same images and classes in a cohort"
        raise ValueError(explain_mismatch(expected, f"input and output shapes {shapes}"))
    inputs = keras.Input(peers[0].input_shape[1:], name="image")
    networks = [
        keras.Model(peer.input, peer.output, name=f"network{number}") for number, peer in enumerate(peers, start=1)
    ]
    logits = [
        layers.Identity(name=f"peer{number}")(network(inputs)) for number, network in enumerate(networks, start=1)
    ]
    return keras.Model(inputs, MeanOfPredictions(name="mean_of_predictions")(logits), name=name)
