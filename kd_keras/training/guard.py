"""Skips updates whose loss or gradients are not finite, consistently on all replicas.

Whether a step fails and whether a worker wants to exit are summed over the replicas in one small tensor. No Python runs
inside the step: the callbacks read the guard's variables between two steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.distribute.reductions import GlobalMean, replica_count, sum_over_replicas
from kd_keras.distribute.replicas import branch_together
from kd_keras.private_api import clip_gradients, layer_state, sub_layers, updates_without_merge_call


class NonFiniteStep(NamedTuple):
    """A step whose loss or gradients were not finite.

    Attributes:
        step: its number, counted from the argument of `NonFiniteGuard.reset`.
        terms: the values of the loss and its terms by name.
        total: the number of such steps since the last report.
    """

    step: int
    terms: dict[str, float]
    total: int = 1


class NonFiniteGuard:
    """Applies gradients only if they and the loss are finite on all replicas.

    A plain object, created in the strategy's scope; its variables are in no checkpoint. A skipped step does not change
    weights, optimizer or the moving statistics of the student and of BatchNorm. With a loss-scaling optimizer,
    overflowing gradients are expected: they are reported only if the scale has fallen to 1, and if a replica has one,
    all replicas skip the step.

    Args:
        model: the built model whose steps are guarded.
        terms: the names of the terms of its loss.
    """

    def __init__(self, model: keras.Model, terms: Sequence[str]):
        self.names = ("loss", *terms)
        options = {"trainable": False, "aggregation": "only_first_replica"}
        self._step, self._first_step = (keras.Variable(0, dtype="int32", **options) for _ in range(2))
        self._state = keras.Variable(np.zeros(2, "float32"), **options)  # non-finite steps, requests to exit
        self._first_terms = keras.Variable(np.zeros(len(self.names), "float32"), **options)
        self._request = keras.Variable(0.0, trainable=False, aggregation="none")  # differs between workers
        self._statistics = _find_statistics(model)
        # At least one number: over several workers TensorFlow crashes when it broadcasts an empty variable.
        size = max(1, sum(math.prod(variable.shape) for variable in self._statistics))
        # One flat variable, because tf.cond has a cost per captured tensor. Its values differ between replicas.
        self._snapshot = keras.Variable(np.zeros(size, "float32"), synchronization="on_read", **options)

    # ---- within a step

    def take_snapshot(self) -> None:
        """Copies the moving statistics before the student's pass changes them."""
        if self._statistics:
            parts = [ops.cast(variable, "float32") for variable in self._statistics]
            flat = [part if len(part.shape) == 1 else ops.reshape(part, (-1,)) for part in parts]
            self._snapshot.assign(ops.concatenate(flat))

    def apply(
        self, optimizer: keras.optimizers.Optimizer, gradients: list, variables: list[keras.Variable], loss: GlobalMean
    ) -> Tensor:
        """Applies the gradients if the step is finite on all replicas, else restores the snapshot.

        Args:
            optimizer: applies the gradients.
            gradients: this replica's gradients, one tensor or `None` for each variable.
            variables: the variables to update.
            loss: this replica's loss.

        Returns:
            Whether the step is finite, `()` bool.
        """
        gradients = [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        # One pass over each gradient: its sum is non-finite if one of its values is, or if the sum exceeds 3e38.
        sums = [ops.sum(ops.cast(gradient, "float32")) for gradient in gradients if gradient is not None]
        overflows = ops.logical_not(ops.all(ops.isfinite(ops.stack(sums))))
        is_scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        fails = ops.logical_and(overflows, _loss_scale(optimizer) <= 1.0) if is_scaling else overflows
        fails = ops.logical_or(fails, ops.logical_not(ops.isfinite(loss.means["loss"])))
        is_finite, skips = self._agree(fails, overflows, loss)
        gradients = _clip_sums(optimizer, gradients)
        if is_scaling:  # it skips non-finite gradients and lowers its scale itself
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
        """Agrees with all replicas whether the step is finite and whether to skip it; stores the first failure.

        Returns:
            Two `()` bools, the same on all replicas: the step is finite; the step is not, or a gradient overflows.
        """
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
        sizes = [math.prod(variable.shape) for variable in self._statistics]
        values = tf.split(self._snapshot.value, sizes) if sizes else ()
        for variable, value in zip(self._statistics, values, strict=True):
            variable.assign(value if len(variable.shape) == 1 else ops.reshape(value, variable.shape))

    # ---- between steps

    def reset(self, step: int = 0) -> None:
        """Counts steps from `step` on, and forgets earlier failures and requests to exit."""
        self._step.assign(step)
        self._state.assign(np.zeros(2, "float32"))

    def request_exit(self) -> None:
        """Makes all workers know, after the next step, that this worker must exit."""
        self._request.assign(1.0)

    def is_exit_requested(self) -> bool:
        """Whether any worker must exit; the same on all workers after the same step."""
        return bool(ops.convert_to_numpy(self._state)[1] > 0)

    def pop_nonfinite_step(self) -> NonFiniteStep | None:
        """The first non-finite step since the last call, or `None`."""
        failures, requests = ops.convert_to_numpy(self._state)
        if not failures:
            return None
        self._state.assign(np.array([0, requests], "float32"))
        terms = ops.convert_to_numpy(self._first_terms).tolist()
        first, named = int(ops.convert_to_numpy(self._first_step)), dict(zip(self.names, terms, strict=True))
        return NonFiniteStep(first, named, int(failures))


def _find_statistics(model: keras.Model) -> list[keras.Variable]:
    """What passes change in other ways than by gradients: state of the student's layers, and BatchNorm elsewhere."""
    inner = sub_layers(model.student)
    known = {id(layer) for layer in inner}
    state = [variable for layer in inner for variable in layer_state(layer)]
    for layer in sub_layers(model):
        if id(layer) not in known and isinstance(layer, keras.layers.BatchNormalization):
            state += [layer.moving_mean, layer.moving_variance]
    return state


def _loss_scale(optimizer: keras.optimizers.LossScaleOptimizer) -> Tensor | float:
    return optimizer.dynamic_scale.value if optimizer.built else optimizer.initial_scale


def _clip_sums(optimizer: keras.optimizers.Optimizer, gradients: list) -> list:
    """Parts for all replicas of the clipped sum of their gradients.

    Keras clips the gradients of each replica before it sums them, so that the limit would grow with the replicas. The
    parts are equal and below the limit, and it does not clip them again.

    Raises:
        ValueError: if the optimizer also accumulates gradients, whose average it clips; or if it accumulates them under
            a strategy in which Keras cannot.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    clips = any(getattr(inner, name, None) for name in ("clipnorm", "global_clipnorm", "clipvalue"))
    if replica_count() == 1:
        return gradients
    accumulates = bool(inner.gradient_accumulation_steps)
    if clips and accumulates:
        raise ValueError(
            "An optimizer that clips and accumulates gradients must run on one replica, but received"
            f" {replica_count()} replicas. Leave out gradient_accumulation_steps."
        )
    if accumulates and not updates_without_merge_call():
        raise ValueError(
            f"An optimizer that accumulates gradients must run on one replica, but received {replica_count()} replicas "
            "of a strategy in which Keras cannot do that. Leave out gradient_accumulation_steps."
        )
    if not clips:
        return gradients
    scale = _loss_scale(optimizer) if inner is not optimizer else 1.0
    sums = sum_over_replicas([gradient / scale for gradient in gradients if gradient is not None])
    clipped = iter(clip_gradients(inner, sums))
    return [None if gradient is None else next(clipped) * scale / replica_count() for gradient in gradients]


def _poisoned(gradients: list, skips: Tensor) -> list:
    """Replaces the gradients by NaN if the step is skipped; with a branch, because a selection would copy them."""
    present = [gradient for gradient in gradients if gradient is not None]
    fill = functools.partial(ops.full_like, fill_value=float("nan"))
    chosen = iter(tf.cond(skips, lambda: [fill(gradient) for gradient in present], lambda: present))
    return [None if gradient is None else next(chosen) for gradient in gradients]
