"""What a long run needs: checkpoints within epochs, a fit that goes on from them, and an orderly end on SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator  # no public name leads to it

from kd_keras.errors import explain_mismatch
from kd_keras.training.checkpoint_files import Position, State, read, write

if TYPE_CHECKING:
    from kd_keras.distiller import Distiller

__all__ = ("Checkpoint", "Position", "fit")
PREEMPTED = 143  # the exit code of a process that left on SIGTERM


class Checkpoint(keras.callbacks.Callback):
    """Saves a Distiller's whole training state as it trains, restores the newest, and leaves with one on SIGTERM.

    The state is student, adapters, optimizer, metrics, the states of random generators and the position in the data;
    no teacher. With several workers each of them needs this callback, for metrics are added up by all together; the
    chief alone writes, to a directory that all can read, and a SIGTERM to any of them lets all leave after one step.

    Args:
        directory: where the checkpoints stand; made if need be.
        every_epochs: epochs from one checkpoint to the next.
        every_steps: steps within an epoch from one checkpoint to the next; 0 for none.
        keep: how many of the newest to keep, at least 2, for the newest may turn out damaged.
        best: the metric whose highest value, at an epoch's end, has its checkpoint kept too, or `None`.
        writes: whether this process writes; for several workers `distribute.is_chief(strategy)`.

    Raises:
        ValueError: for `keep` below 2 or other numbers that are too small.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        every_epochs: int = 1,
        every_steps: int = 0,
        keep: int = 2,
        best: str | None = "val_accuracy",
        writes: bool = True,
    ):
        super().__init__()
        if keep < 2 or every_epochs < 1 or every_steps < 0:
            came = f"keep={keep}, every_epochs={every_epochs}, every_steps={every_steps}"
            raise ValueError(explain_mismatch("keep of at least 2, every_epochs of at least 1, every_steps from 0", came))
        self.directory, self.every_epochs, self.every_steps = Path(directory), every_epochs, every_steps
        self.keep, self.best, self.writes = keep, best, writes
        self.highest = float("-inf")
        self.position = Position()
        self._interrupted: list[np.ndarray] = []  # the metrics of an epoch that goes on
        self._terminated, self._handler = False, None  # whether SIGTERM came; what it did before

    def restore(self, model: Distiller, best: bool = False) -> Position:
        """Loads the newest whole checkpoint, or the best, into a compiled model, and returns where it stands.

        From here to the end of `fit` a SIGTERM is kept until the next step is done.

        Raises:
            ValueError: where none is whole, or it is of another model.
        """
        if not best:
            self._listen()
        state = read(self.directory, best)
        if state is None:
            return Position()
        if not model.optimizer.built:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        variables = _variables(model)
        saved, metrics = state.arrays[: state.about["variables"]], state.arrays[state.about["variables"] :]
        if [array.shape for array in saved] != [tuple(variable.shape) for variable in variables]:
            came = f"those in {self.directory}, of another model"
            raise ValueError(explain_mismatch(f"a checkpoint of {model.name!r}", came))
        for variable, array in zip(variables, saved):
            variable.assign(array)
        self.highest, self._interrupted, self.position = state.about["highest"], metrics, state.position
        return state.position

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint of where training stands."""
        variables = _variables(self.model)
        within = self.model.metrics_variables if self.position.step else []
        arrays = [_array(variable) for variable in [*variables, *within]]
        if self.writes:
            about = {"variables": len(variables), "highest": self.highest}
            write(self.directory, State(self.position, arrays, about), keep=self.keep, best=best)

    # ---- while training

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._listen()

    def _listen(self) -> None:
        if self._handler is None and threading.current_thread() is threading.main_thread():  # the only one that may
            self._handler = signal.signal(signal.SIGTERM, self._on_sigterm) or signal.SIG_DFL

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
            self._handler = None

    def _on_sigterm(self, *_: Any) -> None:
        self._terminated = True

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch != self.position.epoch:
            self.position = Position(epoch, 0)
        for variable, array in zip(self.model.metrics_variables, self._interrupted):
            variable.assign(array)
        self._interrupted, self._before = [], self.position.step

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self._terminated:
            self.model.guard.ask_to_leave()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        last, step = self.position.step, self._before + batch + 1
        self.position = Position(self.position.epoch, step)
        if batch + 1 == self.params.get("steps"):
            return  # the epoch's end, with its test and its line in the log, comes first
        if self._leaving():
            self.save()
            raise SystemExit(PREEMPTED)
        if self.every_steps and step // self.every_steps > last // self.every_steps:
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.position = Position(epoch + 1, 0)
        value = (logs or {}).get(self.best)
        better = value is not None and value > self.highest
        self.highest = float(value) if better else self.highest
        due = (epoch + 1) % self.every_epochs == 0 or epoch + 1 == self.params.get("epochs")
        if due or better or self._leaving():
            self.save(best=better)
        if self._leaving():
            raise SystemExit(PREEMPTED)

    def _leaving(self) -> bool:
        several = isinstance(self.model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)
        return self.model.guard.leaving() if several else self._terminated


def fit(
    model: Distiller,
    checkpoint: Checkpoint,
    data: Callable[[Position], Any],
    *,
    epochs: int,
    steps_per_epoch: int,
    callbacks: Callable[[Position], Sequence[keras.callbacks.Callback]] = lambda position: (),
    **options: Any,
) -> None:
    """Keras's `fit` from where `checkpoint.restore` has put the model, also within an epoch, or from the beginning.

    Args:
        model: compiled, and restored.
        checkpoint: what was restored from, and is saved to.
        data: from a position to the batches from there on, as `kd_keras.data.training` makes them with `start_epoch`
            and `start_step`.
        epochs: of the whole run.
        steps_per_epoch: of a whole epoch, a multiple of the model's `steps_per_execution`.
        callbacks: makes the other callbacks for a `fit` that begins at a position; an epoch that was interrupted has
            one of its own.
        options: whatever else `fit` takes.

    Raises:
        ValueError: where `steps_per_execution` does not divide the steps.
    """
    if steps_per_epoch % model.steps_per_execution:
        remedy = "Keras would run over the end of the epoch; choose a divisor"
        came = f"{steps_per_epoch} steps, {model.steps_per_execution} at a time"
        raise ValueError(explain_mismatch("a number of steps that steps_per_execution divides", came, remedy))
    position, spans = checkpoint.position, []
    if position.step:
        spans.append((position, position.epoch + 1, steps_per_epoch - position.step))
        position = Position(position.epoch + 1, 0)
    if position.epoch < epochs:
        spans.append((position, epochs, steps_per_epoch))
    for number, (begin, end, steps) in enumerate(spans):
        batches = data(begin)
        if begin.step:
            model.build_from(batches.element_spec)  # the metrics that the checkpoint has values of
        own = [*callbacks(begin), checkpoint]
        with contextlib.nullcontext() if number + 1 == len(spans) else _unfinished(model.optimizer):
            model.fit(batches, initial_epoch=begin.epoch, epochs=end, steps_per_epoch=steps, callbacks=own, **options)
    if not spans:  # stopped after its last checkpoint
        model.optimizer.finalize_variable_values(model.trainable_variables)


@contextlib.contextmanager
def _unfinished(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Within, the end of a Keras `fit` is not the end of training, where some optimizers put averages for weights."""
    optimizer.finalize_variable_values = lambda variables: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values


def _variables(model: Distiller) -> list:
    """Everything that training changes, but for the metrics."""
    return [*model.variables, *model.optimizer.variables, global_seed_generator().state]


def _array(variable: keras.Variable) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable)
    return array.astype("float32") if variable.dtype == "bfloat16" else array  # NumPy's files do not know bfloat16
