"""DOT: Zhao et al. 2023, *DOT: A Distillation-Oriented Trainer*, 2307.08436, algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.distribute.reductions import GlobalMean
from kd_keras.errors import check_number
from kd_keras.private_api import variable_index

TASK = ("hard", "regularization")  # the terms that are not distillation
REFUSED = ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps")


@keras.saving.register_keras_serializable("kd_keras")
class DOT(keras.optimizers.Optimizer):
    """SGD with one momentum for the gradient of the hard loss and a larger one for that of the distillation.

    For the gradients g_task and g_kd of a variable w, with momentum m and its difference d, a step is

        v_task <- (m - d) v_task + g_task + decay w
        v_kd   <- (m + d) v_kd + g_kd
        w      <- w - learning rate (v_task + v_kd).

    A variable that receives only one of the gradients, such as that of an adapter, has the momentum m, and is decayed
    too. As in the authors' code, there is no Nesterov momentum. A `Distiller` that is compiled with this optimizer
    computes both gradients, which takes a second backward pass. Regularization losses belong to the task.

    Args:
        learning_rate: a number or a schedule.
        momentum: m.
        delta: d, at least 0; m - d and m + d must be in [0, 1). 0.075 on CIFAR-100 and Tiny-ImageNet, 0.09 on ImageNet.
            With 0 it is SGD with momentum.
        coupled_weight_decay: the decay, at least 0, as for `CoupledSGD`.
        **options: as every Keras optimizer takes them, without gradient clipping or accumulation.

    Raises:
        TypeError: if a value is not a number.
        ValueError: if a value is out of range, or an option is not supported.

    >>> optimizer, weight = DOT(1.0, momentum=0.5, delta=0.25), keras.Variable([0.0])
    >>> gradients = ops.convert_to_tensor([[1.0], [2.0]])  # of the task and of the distillation
    >>> for _ in range(2):
    ...     optimizer.apply([gradients], [weight])
    >>> float(weight[0])  # -(1 + 2) - (1.25 * 1 + 1.75 * 2)
    -7.75
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        delta: float = 0.075,
        *,
        coupled_weight_decay: float = 0.0,
        name: str = "dot",
        **options: Any,
    ):
        refused = [option for option in REFUSED if options.get(option) is not None]
        if refused:
            raise ValueError(f"DOT applies two gradients of each variable and supports no {', '.join(refused)}.")
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.momentum = check_number("DOT", "momentum", momentum, least=0, below=1)
        self.delta = check_number("DOT", "delta", delta, least=0, most=self.momentum)
        check_number("DOT", "momentum + delta", self.momentum + self.delta, below=1)
        self.coupled_weight_decay = check_number("DOT", "coupled_weight_decay", coupled_weight_decay, least=0)

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.task_momenta, self.distillation_momenta = (
            [self.add_variable_from_reference(variable, name) for variable in variables]
            for name in ("task_momentum", "distillation_momentum")
        )

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Updates one variable.

        Args:
            gradient: `(2, ...)`, that of the task and that of the distillation, or `(...)` if there is only one.
            variable: `(...)`.
            learning_rate: `()`.
        """
        index = variable_index(self, variable)
        gradient, decay = ops.cast(gradient, variable.dtype), ops.cast(self.coupled_weight_decay, variable.dtype)
        task, distillation = self.task_momenta[index], self.distillation_momenta[index]
        if len(gradient.shape) == len(variable.shape):
            self.assign(task, ops.cast(self.momentum, variable.dtype) * task + gradient + decay * variable)
            self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * task)
            return
        low, high = (ops.cast(self.momentum + sign * self.delta, variable.dtype) for sign in (-1, 1))
        self.assign(task, low * task + gradient[0] + decay * variable)
        self.assign(distillation, high * distillation + gradient[1])
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * (task + distillation))

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("momentum", "delta", "coupled_weight_decay")}
        config = {name: value for name, value in super().get_config().items() if name not in REFUSED}
        return {**config, **own}


def takes_terms_apart(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer, also within one that scales the loss, needs the gradients of `DOT`."""
    return isinstance(getattr(optimizer, "inner_optimizer", optimizer), DOT)


def compute_gradients(
    tape: tf.GradientTape, loss: GlobalMean, variables: Sequence[keras.Variable], optimizer: keras.optimizers.Optimizer
) -> list[Tensor | None]:
    """The gradients that an optimizer applies: one of the loss for each variable, or two as `DOT.update_step` has them.

    Args:
        tape: recorded the loss; it must be persistent if `takes_terms_apart(optimizer)`.
        loss: the loss of the step.
        variables: the variables.
        optimizer: the optimizer.

    Raises:
        ValueError: if the optimizer is `DOT`, and there is no hard loss or no distillation.
    """
    if not takes_terms_apart(optimizer):
        return tape.gradient(loss.objective, variables)
    task = [value for name, value in loss.summands.items() if name in TASK]
    distillation = [value for name, value in loss.summands.items() if name not in TASK]
    if "hard" not in loss.summands or not distillation:
        raise ValueError(
            f"DOT needs a hard loss and a method, but the loss has the terms {sorted(loss.summands)}. Use SGD, or pass "
            "both hard_weight and methods."
        )
    # The gradient of a list is that of its sum.
    return [
        _stacked(*pair) for pair in zip(*(tape.gradient(part, variables) for part in (task, distillation)), strict=True)
    ]


def _stacked(task: Any, distillation: Any) -> Tensor | None:
    if task is None or distillation is None:
        return distillation if task is None else task
    return ops.stack([tf.convert_to_tensor(task), tf.convert_to_tensor(distillation)])
