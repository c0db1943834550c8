"""Checks before a training that its network can be saved after it, and loaded again."""

from __future__ import annotations

import keras

from kd_keras.errors import explain_mismatch


def check_savable(network: keras.Model) -> None:
    """Checks that Keras can describe each layer of a network, as a `.keras` file does, and loads what it describes.

    A class or function of the user that is not registered is accepted, because whoever loads the file can pass it.

    Raises:
        ValueError: if it cannot, for example because a layer of the user has arguments but no `get_config`, or a Lambda
            layer contains a Python lambda, which Keras saves but refuses to load.

    >>> check_savable(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    """
    try:
        described = network.to_json()
    except Exception as error:  # what a layer's own get_config may raise
        reason = " ".join(str(error).split()).partition(". ")[0]  # the sentences after it explain get_config
        expected, received = "a network that Keras can save", f"{network.name!r}, for which Keras reports: {reason}"
        advice = "give its layers a get_config() that returns their arguments, as numbers, texts or lists of them"
        raise ValueError(explain_mismatch(expected, received, advice)) from error
    if '"class_name": "__lambda__"' in described and not _is_loadable(described):
        expected, received = "a network that Keras can load", f"{network.name!r}, which has a Python lambda in a layer"
        advice = (
            "use layers of Keras, or a function under @keras.saving.register_keras_serializable(); to load lambdas all"
            " the same, call keras.config.enable_unsafe_deserialization()"
        )
        raise ValueError(explain_mismatch(expected, received, advice))


def _is_loadable(described: str) -> bool:
    try:
        keras.models.model_from_json(described)
    except Exception:  # the type depends on the layer
        return False
    return True
