"""The callback that saves and restores the whole training state, and that saves and exits on SIGTERM and SIGINT."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from kd_keras.private_api import global_random_state
from kd_keras.training.checkpoint_files import Position, State, checkpoints, read, write
from kd_keras.training.guard import NonFiniteGuard

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # the exit code of a process that exits on one of them is 128 + its number
LOGGER = logging.getLogger("kd_keras")


class CheckpointedModel(Protocol):
    """What a checkpoint needs of a model: a compiled Keras model with a guard, such as a `Distiller`."""

    name: str
    guard: NonFiniteGuard
    optimizer: keras.optimizers.Optimizer
    steps_per_execution: int

    @property
    def variables(self) -> list[keras.Variable]: ...

    @property
    def trainable_variables(self) -> list[keras.Variable]: ...

    @property
    def metrics_variables(self) -> list[keras.Variable]: ...

    @property
    def distribute_strategy(self) -> tf.distribute.Strategy: ...

    def build_from(self, spec: Any) -> None: ...

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History: ...


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole training state while a Distiller trains, restores the newest, and saves and exits on a signal.

    The state consists of the student, adapters, optimizer, metrics, random generators and the position in the data; the
    teacher is not part of it. With several workers, each of them needs this callback, because reading the metrics sums
    them over all workers. Only the chief writes, to a directory that all can read. If any of them receives a SIGTERM or
    a SIGINT (Ctrl-C), all exit after one more step, with `SystemExit(143)` or `SystemExit(130)`. A second SIGINT
    interrupts at once.

    Args:
        directory: the folder of the checkpoints; created if necessary.
        every_epochs: epochs from one checkpoint to the next.
        every_steps: steps within an epoch from one checkpoint to the next; 0 for none.
        keep: how many of the newest checkpoints to keep, at least 2, because the newest may be damaged.
        best: the metric whose highest value at the end of an epoch decides which checkpoint is kept as the best one;
            `None` keeps none.
        writes: whether this process writes files; with several workers `distribute.is_chief(strategy)`.

    Raises:
        ValueError: if `keep` is below 2, `every_epochs` below 1 or `every_steps` below 0.

    >>> Checkpoint("checkpoints", every_steps=500).keep
    2
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
            raise ValueError(
                "Checkpoint(...) needs keep of at least 2, every_epochs of at least 1 and every_steps of at least 0, "
                f"but received keep={keep}, every_epochs={every_epochs}, every_steps={every_steps}."
            )
        self.directory, self.every_epochs, self.every_steps = Path(directory), every_epochs, every_steps
        self.keep, self.best, self.writes = keep, best, writes
        self.highest = float("-inf")
        self.position = Position()
        self._epoch_metrics: list[np.ndarray] = []  # the metrics of the interrupted epoch
        self._first_step = 0  # the number of steps of the epoch that an earlier `fit` did
        self.has_trained = False  # whether a step is complete
        self._continues = False  # whether the checkpoints of the directory belong to this training
        self._started, self._earlier_seconds = time.perf_counter(), 0.0
        self._signal: int | None = None  # the signal that this process received
        self._previous_handlers: dict[int, Any] = {}

    @property
    def seconds(self) -> float:
        """The time since this object was created, and that of the earlier processes up to the restored checkpoint."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def restore(self, model: CheckpointedModel, best: bool = False) -> Position:
        """Loads the newest undamaged checkpoint, or the best, into a compiled model, and returns its position.

        From this call to the end of `fit`, a SIGTERM or SIGINT takes effect after the current step.

        Args:
            model: the compiled model.
            best: whether to load the best checkpoint instead of the newest.

        Returns:
            The position after the checkpoint, or (0, 0) if there is no checkpoint.

        Raises:
            ValueError: if the model is not compiled, all checkpoints are damaged, or the checkpoint belongs to another
                model or optimizer.
        """
        if not getattr(model, "optimizer", None):
            raise ValueError(f"A checkpoint contains an optimizer, but {model.name!r} has none. Call compile() first.")
        self._continues = True
        if not best:
            self._handle_signals()
        state = read(self.directory, best)
        if state is None:
            return Position()
        if not model.optimizer.built:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        variables = _variables(model)
        saved, metrics = state.arrays[: state.about["variables"]], state.arrays[state.about["variables"] :]
        if [array.shape for array in saved] != [tuple(variable.shape) for variable in variables]:
            raise ValueError(
                f"Expected a checkpoint of {model.name!r}, which has {len(variables)} variables, but the one in "
                f"{self.directory} has {len(saved)} variables of another model, or of other shapes. Choose another "
                "directory, or build the same student, methods and optimizer as before."
            )
        optimizer = type(model.optimizer).__name__
        if state.about.get("optimizer", optimizer) != optimizer:  # older files do not have it
            raise ValueError(
                f"Expected a checkpoint of the optimizer {optimizer}, but that in {self.directory} is of "
                f"{state.about['optimizer']}. Choose another directory, or compile with that optimizer."
            )
        for variable, array in zip(variables, saved, strict=True):
            variable.assign(array)
        self.highest, self._epoch_metrics, self.position = state.about["highest"], metrics, state.position
        if not best:
            self._earlier_seconds = state.about.get("seconds", 0.0)  # older files do not have it
        return state.position

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint of the current state.

        Args:
            best: whether it is the best one so far.
        """
        variables = _variables(self.model)
        metrics = self.model.metrics_variables if self.position.step else []
        arrays = [_array(variable) for variable in [*variables, *metrics]]
        if self.writes:
            about = {
                "variables": len(variables),
                "highest": self.highest,
                "seconds": self.seconds,
                "optimizer": type(self.model.optimizer).__name__,
            }
            write(self.directory, State(self.position, arrays, about), keep=self.keep, best=best)

    # ---- while training

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.writes and not self._continues and checkpoints(self.directory):
            raise ValueError(
                f"Expected a directory without checkpoints of another training, but {self.directory} has some. Call "
                "restore(model) to resume from them, or choose another directory."
            )
        self._continues = True
        self._handle_signals()

    def on_train_end(self, logs: dict | None = None) -> None:
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch != self.position.epoch:
            self.position = Position(epoch, 0)
        if self._epoch_metrics:
            for variable, array in zip(self.model.metrics_variables, self._epoch_metrics, strict=True):
                variable.assign(array)
        self._epoch_metrics, self._first_step = [], self.position.step

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self._signal is not None:
            self.model.guard.request_exit()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        previous, step = self.position.step, self._first_step + batch + 1
        self.position = Position(self.position.epoch, step)
        self.has_trained = True
        if batch + 1 == self.params.get("steps"):
            return  # the epoch ends with its evaluation and logs before a checkpoint is due
        if self._must_exit():
            self.save()
            self._exit()
        if self.every_steps and step // self.every_steps > previous // self.every_steps:
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.position = Position(epoch + 1, 0)
        value = float((logs or {}).get(self.best, float("-inf")))
        is_better = value > self.highest
        self.highest = value if is_better else self.highest
        is_due = (epoch + 1) % self.every_epochs == 0 or epoch + 1 == self.params.get("epochs")
        if is_due or is_better or self._must_exit():
            self.save(best=is_better)
        if self._must_exit():
            self._exit()

    def _must_exit(self) -> bool:
        has_workers = isinstance(self.model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)
        return self.model.guard.is_exit_requested() if has_workers else self._signal is not None

    def _exit(self) -> None:
        number = signal.SIGTERM if self._signal is None else signal.Signals(self._signal)  # None: of another worker
        LOGGER.info(
            "%s: saved after epoch %d, step %d. The same command resumes from there.", number.name, *self.position
        )
        self.on_train_end()  # Keras does not call it
        raise SystemExit(128 + number)

    def _handle_signals(self) -> None:
        # Python allows only the main thread to set a signal handler.
        if not self._previous_handlers and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous_handlers[number] = signal.signal(number, self._on_signal) or signal.SIG_DFL

    def _on_signal(self, number: int, _: Any) -> None:
        self._signal = number
        if number == signal.SIGINT:  # a second one does not wait for the end of the step
            signal.signal(number, self._previous_handlers[number])


def _variables(model: CheckpointedModel) -> list[keras.Variable]:
    """All variables that training changes, except the metrics."""
    return [*model.variables, *model.optimizer.variables, global_random_state()]


def _array(variable: keras.Variable) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable)
    return array.astype("float32") if variable.dtype == "bfloat16" else array  # the .npz format has no bfloat16
