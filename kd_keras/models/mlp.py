"""A plain perceptron of fully connected layers, as in Hinton, Vinyals and Dean 2015, 1503.02531, section 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from kd_keras.models.base import image_input
from kd_keras.networks.preprocessing import PixelStatistics


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    normalization: PixelStatistics | None = None,
    hidden: Sequence[int] = (800, 800),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    max_norm: float | None = None,
    name: str = "mlp",
) -> keras.Model:
    """Flattens the image and passes it through ReLU layers to `(B, classes)` logits.

    Args:
        input_shape: `(H, W, C)` of an image.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        hidden: the number of units of each hidden layer.
        dropout: the rate in [0, 1) of the dropout after each hidden layer.
        input_dropout: the rate in [0, 1) of the dropout of the normalized image.
        max_norm: the greatest length of the weights into a hidden unit (the weight constraint of Hinton et al. 2012,
            1207.0580); `None` constrains nothing.
        name: the model's name.

    >>> mlp((28, 28, 1), 10).count_params()
    1276810
    """
    inputs, x = image_input(input_shape, normalization)
    x = layers.Flatten(name="flatten")(x)
    if input_dropout:
        x = layers.Dropout(input_dropout, name="dropout0")(x)
    for number, units in enumerate(hidden, start=1):
        x = layers.Dense(
            units,
            activation="relu",
            kernel_initializer="he_normal",
            kernel_constraint=None if max_norm is None else keras.constraints.MaxNorm(max_norm, axis=0),
            name=f"hidden{number}",
        )(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{number}")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)
