"""BatchNorm's moving statistics, which a short training leaves near their initial values if their momentum is high.

With a momentum m, m^n of the initial value is left after n updates: of Keras's default 0.99, 37 % after 100 updates,
and of 0.999, as in MobileNetV3, 37 % after 1,000. Until then the predictions of a network that learns well are no
better than chance in inference.
"""

from __future__ import annotations

import warnings

import keras
import numpy as np

from kd_keras.private_api import sub_layers

MOMENTUM = 0.9  # of new networks, as in PyTorch, whose 0.1 is the factor of the new value
MOST_LEFT = 0.1


def set_momentum(network: keras.Model) -> None:
    """Gives all BatchNorm layers of a network the momentum 0.9.

    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    >>> set_momentum(network)
    >>> network.layers[0].momentum
    0.9
    """
    for layer in _norms(network):
        layer.momentum = MOMENTUM


def warn_of_lag(network: keras.Model, updates: int) -> None:
    """Warns if a training is too short for the moving statistics of a network that starts with new ones.

    Args:
        network: the network before its training.
        updates: the number of steps of the training.

    >>> warn_of_lag(keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()]), 1000)
    """
    momenta = [layer.momentum for layer in _norms(network) if layer.trainable and _is_new(layer)]
    left = max(momenta, default=0.0) ** updates
    if left > MOST_LEFT:
        advice = "Build it with BatchNormalization(momentum=0.9), or train" if max(momenta) > 0.9 else "Train"
        warnings.warn(
            f"The BatchNorm layers of {network.name!r} have a momentum of {max(momenta):g}: after {updates:,} steps "
            f"{left:.0%} of their initial statistics is left, and the network's test predictions are worse than its "
            f"training predictions. {advice} it longer.",
            stacklevel=2,
        )


def _norms(network: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in sub_layers(network) if isinstance(layer, keras.layers.BatchNormalization)]


def _is_new(layer: keras.layers.BatchNormalization) -> bool:
    """Whether a layer has the initial statistics of Keras: a mean of 0 and a variance of 1."""
    return not np.any(layer.moving_mean) and bool(np.all(np.asarray(layer.moving_variance) == 1))
