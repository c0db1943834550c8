"""SGD with the weight decay of the published recipes: an L2 term in the gradient."""

from __future__ import annotations

from typing import Any

import keras

from kd_keras.contracts import Tensor
from kd_keras.errors import check_number


@keras.saving.register_keras_serializable("kd_keras")
class CoupledSGD(keras.optimizers.SGD):
    """SGD that adds `coupled_weight_decay * variable` to the gradient of every variable, before momentum.

    This is how the implementations of the published distillation tables decay weights. It excludes nothing: biases,
    the parameters of BatchNorm and adapters are decayed too. Keras's own `weight_decay` subtracts learning rate times
    decay times variable, past the momentum. With a constant learning rate and momentum m the coupled form decays
    1 / (1 - m) times as much in the long run: 5e-4 with momentum 0.9 is about a decoupled 5e-3.

    The term is added after the gradients of all replicas are summed, clipped and, in mixed precision, unscaled.

    Args:
        learning_rate: a number or a schedule.
        coupled_weight_decay: the factor, at least 0.
        **options: as `keras.optimizers.SGD` takes them, such as `momentum`.

    Raises:
        TypeError: if the factor is not a number.
        ValueError: if it is below 0.

    >>> optimizer = CoupledSGD(0.1, coupled_weight_decay=0.5)
    >>> weight = keras.Variable([2.0])
    >>> optimizer.apply([keras.ops.zeros(1)], [weight])
    >>> float(weight[0])  # 2 - 0.1 * (0.5 * 2)
    1.899999976158142
    """

    def __init__(self, learning_rate: Any = 0.01, *, coupled_weight_decay: float = 0.0, **options: Any):
        super().__init__(learning_rate, **options)
        self.coupled_weight_decay = check_number("CoupledSGD", "coupled_weight_decay", coupled_weight_decay, least=0)

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Updates one variable with its gradient and the L2 term."""
        decay = keras.ops.cast(self.coupled_weight_decay, variable.dtype)
        super().update_step(keras.ops.cast(gradient, variable.dtype) + decay * variable, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "coupled_weight_decay": self.coupled_weight_decay}
