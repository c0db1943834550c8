"""A plain perceptron of fully connected layers, as in Hinton, Vinyals and Dean 2015, 1503.02531, section 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    hidden: Sequence[int] = (800, 800),
    dropout: float = 0.0,
    name: str = "mlp",
) -> keras.Model:
    """Flattens the image and passes it through `hidden` ReLU layers to `(B, classes)` logits.

    `dropout` in [0, 1) follows each hidden layer.

    >>> mlp((28, 28, 1), 10).count_params()
    1276810
    """
    inputs = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(inputs)
    for number, units in enumerate(hidden, start=1):
        x = layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=f"hidden{number}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{number}")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)
