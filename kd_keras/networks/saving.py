"""Checks before a training that its network can be saved after it."""

from __future__ import annotations

import keras

from kd_keras.errors import explain_mismatch


def check_savable(network: keras.Model) -> None:
    """Checks that Keras can describe each layer of a network, as a `.keras` file does.

    Raises:
        ValueError: if it cannot, for example because a layer of the user has arguments but no `get_config`.

    >>> check_savable(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    """
    try:
        network.to_json()
    except Exception as error:  # what a layer's own get_config may raise
        reason = " ".join(str(error).split()).partition(". ")[0]  # the sentences after it explain get_config
        expected, received = "a network that Keras can save", f"{network.name!r}, for which Keras reports: {reason}"
        advice = "give its layers a get_config() that returns their arguments, as numbers, texts or lists of them"
        raise ValueError(explain_mismatch(expected, received, advice)) from error
