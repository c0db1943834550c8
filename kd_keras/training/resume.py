"""Keras's `fit` that resumes from a checkpoint, also within an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from kd_keras.training.checkpoint import Checkpoint, CheckpointedModel
from kd_keras.training.checkpoint_files import Position


def fit(
    model: CheckpointedModel,
    checkpoint: Checkpoint,
    data: Callable[[Position], Any],
    *,
    epochs: int,
    steps_per_epoch: int,
    callbacks: Callable[[Position], Sequence[keras.callbacks.Callback]] = lambda position: (),
    **options: Any,
) -> None:
    """Trains from the position that `checkpoint.restore` returned, or from the beginning.

    Args:
        model: compiled and restored.
        checkpoint: the callback that restored the model, and saves it.
        data: from a position to the batches that follow it, as `kd_keras.data.training` makes them with `start_epoch`
            and `start_step`.
        epochs: epochs of the whole run.
        steps_per_epoch: steps of a whole epoch, a multiple of the model's `steps_per_execution`.
        callbacks: makes the other callbacks for a Keras `fit` that begins at a position; the rest of an interrupted
            epoch is a Keras `fit` of its own.
        options: other arguments of Keras's `fit`.

    Raises:
        ValueError: if `steps_per_execution` does not divide `steps_per_epoch`.
    """
    if steps_per_epoch % model.steps_per_execution:
        raise ValueError(
            f"Expected a number of steps that steps_per_execution divides, but received {steps_per_epoch} steps, "
            f"{model.steps_per_execution} at a time: Keras would run over the end of the epoch. Choose a divisor."
        )
    spans = _spans(checkpoint.position, epochs, steps_per_epoch)
    for number, (begin, end, steps) in enumerate(spans):
        batches = data(begin)
        if begin.step:
            model.build_from(batches.element_spec)  # creates the metrics whose values the checkpoint has
        span_callbacks = [*callbacks(begin), checkpoint]
        with contextlib.nullcontext() if number + 1 == len(spans) else _without_finalization(model.optimizer):
            model.fit(
                batches,
                initial_epoch=begin.epoch,
                epochs=end,
                steps_per_epoch=steps,
                callbacks=span_callbacks,
                **options,
            )
    if not spans:  # interrupted after its last checkpoint
        model.optimizer.finalize_variable_values(model.trainable_variables)


def _spans(position: Position, epochs: int, steps_per_epoch: int) -> list[tuple[Position, int, int]]:
    """The calls of Keras's `fit`: where each begins, its last epoch and its steps in an epoch.

    >>> _spans(Position(1, 20), epochs=5, steps_per_epoch=50)
    [(Position(epoch=1, step=20), 2, 30), (Position(epoch=2, step=0), 5, 50)]
    """
    spans = []
    if position.step:
        spans.append((position, position.epoch + 1, steps_per_epoch - position.step))
        position = Position(position.epoch + 1, 0)
    if position.epoch < epochs:
        spans.append((position, epochs, steps_per_epoch))
    return spans


@contextlib.contextmanager
def _without_finalization(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Within, the end of a Keras `fit` is not the end of training, when some optimizers replace weights by averages."""
    optimizer.finalize_variable_values = lambda variables: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
