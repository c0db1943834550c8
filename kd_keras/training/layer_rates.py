"""A learning rate for each layer: lower for the first layers of a pretrained network than for its classifier.

Howard and Ruder 2018, 1801.06146, section 3.2 (discriminative rates); Bao et al. 2022, 2106.08254 (a decay per block).
"""

from __future__ import annotations

from typing import Any

import keras

from kd_keras.contracts import Tensor
from kd_keras.errors import check_number
from kd_keras.networks.depth import relative_depths
from kd_keras.private_api import variable_index
from kd_keras.training.weight_decay import CoupledSGD


def layer_factors(network: keras.Model, first_layer_rate: float) -> dict[int, float]:
    """The factor of the learning rate of every trainable variable, by its `id`: `first_layer_rate ** (1 - depth)`.

    It is 1 for the classifier, `first_layer_rate` for the first layer, and geometric in between. A decay of d for each
    of n blocks is a rate of d ** n for the first layer: 0.75 for 12 blocks is 0.03.

    Args:
        network: a built Functional or Sequential model.
        first_layer_rate: the ratio of the first layer's rate to the classifier's, above 0 and at most 1.

    Raises:
        TypeError: if the rate is not a number.
        ValueError: if it is out of range, or the model is not a graph of layers.

    >>> layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(8), keras.layers.Dense(3)]
    >>> list(layer_factors(keras.Sequential(layers), 0.25).values())
    [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    """
    rate = check_number("layer_factors", "first_layer_rate", first_layer_rate, above=0, most=1)
    return {id(variable): rate ** (1 - depth) for variable, depth in relative_depths(network)}


class LayerRates(keras.optimizers.Optimizer):
    """The base class: the learning rate of a variable is multiplied by its factor.

    A decoupled weight decay follows the rate of its variable, as it does in parameter groups of PyTorch.

    Attributes:
        factors: by the `id` of a variable; variables without one, such as those of adapters, have the factor 1.
        decay: the decoupled weight decay.
    """

    factors: dict[int, float]
    decay: float

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self._factor_list = [self.factors.get(id(variable), 1.0) for variable in variables]

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Updates one variable with its own learning rate."""
        factor = self._factor_list[variable_index(self, variable)]
        rate = keras.ops.cast(learning_rate, variable.dtype) * keras.ops.cast(factor, variable.dtype)
        if self.decay:
            self.assign_sub(variable, rate * keras.ops.cast(self.decay, variable.dtype) * variable)
        super().update_step(gradient, variable, rate)


class LayerRatesSGD(LayerRates, CoupledSGD):
    """`CoupledSGD` with a learning rate for each layer.

    >>> layers = [keras.Input((1,)), keras.layers.Dense(1, use_bias=False), keras.layers.Dense(1, use_bias=False)]
    >>> network = keras.Sequential(layers)
    >>> network.set_weights([keras.ops.ones((1, 1))] * 2)
    >>> optimizer = LayerRatesSGD(0.5, layer_factors(network, 0.5))
    >>> optimizer.apply([keras.ops.ones((1, 1))] * 2, network.trainable_variables)
    >>> [float(weight[0, 0]) for weight in network.get_weights()]
    [0.75, 0.5]
    """

    def __init__(self, learning_rate: Any, factors: dict[int, float], decay: float = 0.0, **options: Any):
        super().__init__(learning_rate, **options)
        self.factors, self.decay = factors, decay


class LayerRatesAdam(LayerRates, keras.optimizers.Adam):
    """Adam, and with `decay` AdamW, with a learning rate for each layer."""

    def __init__(self, learning_rate: Any, factors: dict[int, float], decay: float = 0.0, **options: Any):
        super().__init__(learning_rate, **options)
        self.factors, self.decay = factors, decay
