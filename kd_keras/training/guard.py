"""Skips updates whose loss or gradients are not finite, consistently on all replicas.

The verdict and the requests to exit are summed over the replicas together, in one small tensor. No Python runs inside
the step: the guard's variables hold what the callbacks read between two steps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.distribute.reductions import GlobalMean, sum_over_replicas
from kd_keras.distribute.replicas import branch_together
from kd_keras.private_api import sub_layers


class NonFiniteStep(NamedTuple):
    """A step whose loss or gradients were not finite.

    Attributes:
        step: its number since `NonFiniteGuard.reset`.
        terms: the values of the loss and its terms by name.
    """

    step: int
    terms: dict[str, float]


class NonFiniteGuard:
    """Applies gradients only if they and the loss are finite on all replicas.

    A plain object, created in the strategy's scope; its variables are in no checkpoint. A skipped step changes nothing:
    weights, optimizer and the moving statistics of BatchNorm stay as they were. With a loss-scaling optimizer an
    overflowing gradient is expected, and is reported only if the scale is down to 1; every replica then sees the
    overflow, so that all of them skip the step together.

    Args:
        model: the model whose steps are guarded, built.
        terms: the names of the terms of its loss.
    """

    def __init__(self, model: keras.Model, terms: Sequence[str]):
        self.names = ("loss", *terms)
        options = {"trainable": False, "aggregation": "only_first_replica"}
        self._step, self._first_step = (keras.Variable(0, dtype="int32", **options) for _ in range(2))
        self._state = keras.Variable(np.zeros(2, "float32"), **options)  # non-finite steps, requests to exit
        self._first_terms = keras.Variable(np.zeros(len(self.names), "float32"), **options)
        self._request = keras.Variable(0.0, trainable=False, aggregation="none")  # each worker has its own
        layers = [layer for layer in sub_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
        self._statistics = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
        # At least one number: over several workers TensorFlow crashes when it broadcasts an empty variable.
        size = max(1, sum(variable.shape[0] for variable in self._statistics))
        # One flat variable, as tf.cond has a cost for each captured tensor; each replica has its own values.
        self._snapshot = keras.Variable(np.zeros(size, "float32"), synchronization="on_read", **options)

    # ---- within a step

    def take_snapshot(self) -> None:
        """Remembers the moving statistics of BatchNorm, which the student's pass is about to change."""
        if self._statistics:
            self._snapshot.assign(ops.concatenate([ops.cast(each, "float32") for each in self._statistics]))

    def apply(
        self, optimizer: keras.optimizers.Optimizer, gradients: list, variables: list[keras.Variable], loss: GlobalMean
    ) -> Tensor:
        """Applies the gradients if the step is finite on all replicas, else restores the snapshot.

        Args:
            optimizer: the one that applies the gradients.
            gradients: this replica's, one for each variable or `None`.
            variables: the variables to update.
            loss: this replica's loss.

        Returns:
            Whether the step is finite, `()` bool.
        """
        gradients = [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        # One pass over each gradient: its sum is not finite if one of its values is not, or if the sum exceeds 3e38.
        sums = [ops.sum(ops.cast(gradient, "float32")) for gradient in gradients if gradient is not None]
        overflows = ops.logical_not(ops.all(ops.isfinite(ops.stack(sums))))
        is_scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        fails = ops.logical_and(overflows, _loss_scale(optimizer) <= 1.0) if is_scaling else overflows
        fails = ops.logical_or(fails, ops.logical_not(ops.isfinite(loss.means["loss"])))
        is_finite, skips = self._agree(fails, overflows, loss)
        if is_scaling:  # such an optimizer skips non-finite gradients, and lowers its scale, by itself
            optimizer.apply_gradients(zip(_poisoned(gradients, skips), variables, strict=True))
            branch_together(is_finite, lambda: None, self._restore_snapshot)
            return is_finite
        if not optimizer.built:
            optimizer.build(variables)

        def update(gradients: list) -> None:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        branch_together(is_finite, update, lambda gradients: self._restore_snapshot(), gradients)
        return is_finite

    def _agree(self, fails: Tensor, overflows: Tensor, loss: GlobalMean) -> tuple[Tensor, Tensor]:
        """Whether the step is finite on all replicas and whether any gradient overflows; notes the first failure."""
        terms = ops.stack([ops.cast(loss.means.get(name, 0.0), "float32") for name in self.names])
        flags = ops.cast(ops.stack([fails, overflows, self._request.value > 0]), "float32")
        reduced = sum_over_replicas(ops.concatenate([flags, loss.fraction * terms], axis=0))
        is_finite = reduced[0] == 0
        is_first = ops.logical_and(ops.logical_not(is_finite), self._state[0] == 0)
        self._first_step.assign(ops.where(is_first, self._step, self._first_step))
        self._first_terms.assign(ops.where(is_first, reduced[3:], self._first_terms))
        self._state.assign(ops.stack([self._state[0] + ops.cast(ops.logical_not(is_finite), "float32"), reduced[2]]))
        self._step.assign(self._step + 1)
        return is_finite, reduced[0] + reduced[1] > 0

    def _restore_snapshot(self) -> None:
        sizes = [variable.shape[0] for variable in self._statistics]
        values = tf.split(self._snapshot.value, sizes) if sizes else ()
        for variable, value in zip(self._statistics, values, strict=True):
            variable.assign(value)

    # ---- between steps

    def reset(self, step: int = 0) -> None:
        """Counts steps from this one on."""
        self._step.assign(step)
        self._state.assign(np.zeros(2, "float32"))

    def request_exit(self) -> None:
        """Tells every worker, with the next step, that this one was asked to exit."""
        self._request.assign(1.0)

    def is_exit_requested(self) -> bool:
        """Whether any worker was asked to exit; the same on all workers after the same step."""
        return bool(ops.convert_to_numpy(self._state)[1] > 0)

    def pop_nonfinite_step(self) -> NonFiniteStep | None:
        """The first step that was not finite since the last call, or `None`."""
        failures, requests = ops.convert_to_numpy(self._state)
        if not failures:
            return None
        self._state.assign(np.array([0, requests], "float32"))
        terms = ops.convert_to_numpy(self._first_terms).tolist()
        return NonFiniteStep(int(ops.convert_to_numpy(self._first_step)), dict(zip(self.names, terms, strict=True)))


def _loss_scale(optimizer: keras.optimizers.LossScaleOptimizer) -> Tensor | float:
    return optimizer.dynamic_scale.value if optimizer.built else optimizer.initial_scale


def _poisoned(gradients: list, skips: Tensor) -> list:
    """The same gradients, or NaN on all replicas if the step is skipped; a branch, since a selection would copy."""
    present = [gradient for gradient in gradients if gradient is not None]
    fill = functools.partial(ops.full_like, fill_value=float("nan"))
    chosen = iter(tf.cond(skips, lambda: [fill(gradient) for gradient in present], lambda: present))
    return [None if gradient is None else next(chosen) for gradient in gradients]
