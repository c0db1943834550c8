"""What all replicas must agree on in every step: whether it was finite, and whether one of them was asked to leave.

Both ride in one small sum over the replicas. Nothing of Python runs inside the step: its findings stay in variables,
which the callback reads between two steps.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kd_keras.contracts import Tensor, as_batch
from kd_keras.errors import explain_mismatch, suggest

CHOICES = ("stop", "skip")


class Finding(NamedTuple):
    """A step that was not finite: its number since `NonFiniteGuard.reset`, and the values of the loss and its terms by name."""

    step: int
    terms: dict[str, float]


class NonFiniteGuard:
    """Keeps what is not finite out of weights and statistics, on all replicas alike.

    A plain object, made in the strategy's scope; its variables are in no checkpoint. Where the loss or a gradient is
    not finite, the step is not made: weights, optimizer and BatchNorm's statistics stay as they were. With a
    loss-scaling optimizer an overflowing gradient is its daily business, and no finding while the scale is above 1;
    every replica then sees the overflow, so that all of them skip the step together.
    """

    def __init__(self, names: Sequence[str]):
        self.names = ("loss", *names)
        options = {"trainable": False, "aggregation": "only_first_replica"}
        self._steps, self._at = (keras.Variable(0, dtype="int32", **options) for _ in range(2))
        self._state = keras.Variable(np.zeros(2, "float32"), **options)  # findings, wishes to leave
        self._terms = keras.Variable(np.zeros(len(self.names), "float32"), **options)
        self._asked = keras.Variable(0.0, trainable=False, aggregation="none")  # each worker's own

    def statistics(self, model: keras.Model) -> tuple[list[keras.Variable], Tensor]:
        """BatchNorm's moving statistics and their values before a step, to give to the call; in one tensor, for a
        branch pays for each that it is given."""
        layers = [each for each in model._flatten_layers() if isinstance(each, keras.layers.BatchNormalization)]
        found = [variable for layer in layers for variable in layer.non_trainable_variables]
        return found, tf.concat([tf.zeros(0), *(tf.cast(variable.value, tf.float32) for variable in found)], 0)

    def __call__(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: list,
        variables: list[keras.Variable],
        terms: dict[str, Tensor],
        share: Any,
        before: tuple[list[keras.Variable], Tensor],
    ) -> Tensor:
        """Applies the gradients where the step is finite on all replicas, and returns whether it is.

        Args:
            optimizer: what applies the gradients.
            gradients: this replica's, `None` where there is none.
            variables: of the gradients.
            terms: this replica's loss and terms by name, `()` each.
            share: this replica's part of the global batch.
            before: of `statistics`.
        """
        gradients = [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        values = ops.stack([ops.cast(terms.get(name, 0.0), "float32") for name in self.names])
        # One pass over each gradient: a sum is not finite where one of its values is not, or where it exceeds 3e38.
        sums = [ops.sum(ops.cast(g, "float32")) for g in gradients if g is not None]
        finite = ops.all(ops.isfinite(ops.stack(sums)))
        scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        overflow = ops.logical_not(finite)
        bad = ops.logical_and(overflow, _scale(optimizer) <= 1.0) if scaling else overflow
        bad = ops.logical_or(bad, ops.logical_not(ops.isfinite(values[0])))
        told = ops.cast(ops.stack([bad, overflow, self._asked.value > 0]), "float32")
        told = _summed(ops.concatenate([told, share * values], axis=0))
        sound, skip = told[0] == 0, told[0] + told[1] > 0
        self._note(sound, told)
        statistics, kept = before

        def update(gradients: list, kept: Tensor) -> None:
            optimizer.apply_gradients(zip(gradients, variables))

        def restore(gradients: list, kept: Tensor) -> None:
            sizes = [variable.shape[0] for variable in statistics]
            for variable, value in zip(statistics, tf.split(kept, sizes) if sizes else ()):
                variable.assign(value)

        if scaling:  # such an optimizer skips, and lowers its scale, by itself
            optimizer.apply_gradients(zip(self._spoilt(gradients, skip), variables))
            _either(sound, lambda *_: None, restore, gradients, kept)
        else:
            if not optimizer.built:
                optimizer.build(variables)
            _either(sound, update, restore, gradients, kept)
        return sound

    @staticmethod
    def _spoilt(gradients: list, skip: Tensor) -> list:
        """The same gradients, or NaN on all replicas where the step is skipped; a branch, for choosing would copy."""
        given = [g for g in gradients if g is not None]
        spoilt = functools.partial(ops.full_like, fill_value=float("nan"))
        chosen = iter(tf.cond(skip, lambda: [spoilt(g) for g in given], lambda: given))
        return [None if g is None else next(chosen) for g in gradients]

    def _note(self, sound: Tensor, told: Tensor) -> None:
        first = ops.logical_and(ops.logical_not(sound), self._state[0] == 0)
        self._at.assign(ops.where(first, self._steps, self._at))
        self._terms.assign(ops.where(first, told[3:], self._terms))
        self._state.assign(ops.stack([self._state[0] + ops.cast(ops.logical_not(sound), "float32"), told[2]]))
        self._steps.assign(self._steps + 1)

    # ---- between steps

    def reset(self, step: int = 0) -> None:
        """Counts steps from this one on."""
        self._steps.assign(step)
        self._state.assign(np.zeros(2, "float32"))

    def ask_to_leave(self) -> None:
        """Lets every worker see, with the next step, that this one was asked to stop."""
        self._asked.assign(1.0)

    def leaving(self) -> bool:
        """Whether a worker was asked to stop; the same on all workers after the same step."""
        return bool(ops.convert_to_numpy(self._state)[1] > 0)

    def finding(self) -> Finding | None:
        """The first step that was not finite since the last look."""
        findings, leaving = ops.convert_to_numpy(self._state)
        if not findings:
            return None
        self._state.assign(np.array([0, leaving], "float32"))
        values = ops.convert_to_numpy(self._terms).tolist()
        return Finding(int(ops.convert_to_numpy(self._at)), dict(zip(self.names, values)))


def _either(condition: Tensor, one: Callable, other: Callable, *args: Any) -> None:
    """Does one of two things with this replica's tensors, the same on all replicas."""
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        tf.cond(condition, lambda: one(*args), lambda: other(*args))
        return

    def together(strategy: tf.distribute.Strategy, condition: Any, *args: Any) -> None:
        # A replica's own branch may not merge with the others', which updates do: one branch for all replicas.
        condition, each = strategy.experimental_local_results(condition)[0], strategy.extended.call_for_each_replica
        tf.cond(condition, lambda: each(one, args=args), lambda: each(other, args=args))

    tf.distribute.get_replica_context().merge_call(together, args=(condition, *args))


def _scale(optimizer: keras.optimizers.LossScaleOptimizer) -> Any:
    return optimizer.dynamic_scale.value if optimizer.built else optimizer.initial_scale


def _summed(values: Tensor) -> Tensor:
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


class NonFinite(keras.callbacks.Callback):
    """Stops a run, or goes on without the batch, where its loss or a gradient is not finite.

    `Distiller.fit` has one that stops, unless it is given another. Weights and statistics are then those before.

    Args:
        on_nonfinite: "stop" raises; "skip" warns and goes on as if the batch had not come: no step of the optimizer.
        directory: where `nonfinite_<epoch>_<step>.npz` is written: epoch, step, the names and values of the loss's
            terms and, with `replay`, the batch: `index` `(B,)`, `label` and `images`. `None` for nowhere.
        replay: from an epoch and a step in it to that batch as the data gave it, with its index.
        start: the epoch and the step in it with which this `fit` begins.

    Raises:
        ValueError: for another choice.
        FloatingPointError: from `fit`, with the step and the terms.

    >>> NonFinite("skip").on_nonfinite
    'skip'
    """

    def __init__(
        self,
        on_nonfinite: str = "stop",
        directory: str | Path | None = None,
        replay: Callable[[int, int], Any] | None = None,
        start: tuple[int, int] = (0, 0),
    ):
        super().__init__()
        if on_nonfinite not in CHOICES:
            remedy = suggest(on_nonfinite, CHOICES)
            raise ValueError(explain_mismatch(f"on_nonfinite= one of {CHOICES}", repr(on_nonfinite), remedy))
        self.on_nonfinite, self.replay = on_nonfinite, replay
        self.directory = None if directory is None else Path(directory)
        self.epoch, self.start = 0, tuple(start)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch = epoch
        self.model.guard.reset(self.start[1] if epoch == self.start[0] else 0)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        finding = self.model.guard.finding()
        if finding is None:
            return
        terms = ", ".join(f"{name} {value:g}" for name, value in finding.terms.items())
        came = f"{terms} in epoch {self.epoch}, step {finding.step}"
        saved = self._save(finding)
        if self.on_nonfinite == "skip":
            warnings.warn(f"Skipped a batch: {came}{saved}.", stacklevel=2)
            return
        remedy = f"a lower learning rate, a look at the batch{saved}, or on_nonfinite='skip'"
        raise FloatingPointError(explain_mismatch("a finite loss and finite gradients", came, remedy))

    def _save(self, finding: Finding) -> str:
        if self.directory is None:
            return ""
        found = {"epoch": self.epoch, "step": finding.step}
        found |= {"terms": list(finding.terms), "values": np.array(list(finding.terms.values()), "float32")}
        if self.replay:
            batch = as_batch(self.replay(self.epoch, finding.step))
            given = {"index": batch.index, "label": batch.label, "images": batch.inputs}
            found |= {name: np.asarray(value) for name, value in given.items() if value is not None}
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"nonfinite_{self.epoch}_{finding.step}.npz"
        np.savez(path, **found)
        return f", saved in {path}"
