"""LARS: You, Gitman and Ginsburg 2017, *Large Batch Training of Convolutional Networks*, 1708.03888."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.errors import check_number

EPSILON = 1e-8


@keras.saving.register_keras_serializable("kd_keras")
class LARS(keras.optimizers.SGD):
    """SGD whose step for each kernel is in proportion to the norm of the kernel (algorithm 1).

    The gradient g of a kernel w becomes trust * |w| / (|g| + decay * |w|) * (g + decay * w), before momentum; with a
    norm of zero it becomes g + decay * w. The denominator has 1e-8 added. Vectors, such as biases and the parameters of
    normalizations, have plain SGD without decay, as is usual. Learning rates are much higher than those of SGD, such as
    1.8 for batches of 1536.

    The ratio is computed after the gradients of all replicas are summed, clipped and, in mixed precision, unscaled.

    Args:
        learning_rate: a number or a schedule.
        coupled_weight_decay: the factor of the decay, at least 0.
        trust: the trust coefficient, above 0.
        **options: as `keras.optimizers.SGD` takes them, such as `momentum`.

    Raises:
        TypeError: if a factor is not a number.
        ValueError: if it is out of range.

    >>> optimizer = LARS(1.0, trust=0.1)
    >>> kernel = keras.Variable([[3.0, 4.0]])
    >>> optimizer.apply([ops.convert_to_tensor([[0.0, 20.0]])], [kernel])
    >>> [round(float(value), 4) for value in kernel[0]]  # the step has a tenth of the norm 5
    [3.0, 3.5]
    """

    def __init__(
        self,
        learning_rate: Any = 1.8,
        *,
        coupled_weight_decay: float = 0.0,
        trust: float = 0.001,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.coupled_weight_decay = check_number("LARS", "coupled_weight_decay", coupled_weight_decay, least=0)
        self.trust = check_number("LARS", "trust", trust, above=0)

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Updates one variable with its gradient, scaled if it is a kernel."""
        gradient = ops.cast(gradient, variable.dtype)
        if len(variable.shape) > 1:
            decay = ops.cast(self.coupled_weight_decay, variable.dtype)
            weight_norm, gradient_norm = (_norm(ops.convert_to_tensor(value)) for value in (variable, gradient))
            ratio = self.trust * weight_norm / (gradient_norm + decay * weight_norm + EPSILON)
            is_usable = ops.logical_and(weight_norm > 0, gradient_norm > 0)
            gradient = ops.where(is_usable, ratio, ops.ones_like(ratio)) * (gradient + decay * variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "coupled_weight_decay": self.coupled_weight_decay, "trust": self.trust}


def _norm(value: Tensor) -> Tensor:
    """The norm of all elements."""
    return ops.sqrt(ops.sum(ops.square(value)))
