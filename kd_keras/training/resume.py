"""A `fit` that resumes from a checkpoint, also within an epoch."""

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
        model: the compiled model, restored by `checkpoint`.
        checkpoint: the callback that restored the model and saves it.
        data: a function from a position to the batches after it, such as `kd_keras.data.training` with `start_epoch`
            and `start_step`.
        epochs: the number of epochs of the whole run.
        steps_per_epoch: the number of steps of a whole epoch, a multiple of the model's `steps_per_execution`.
        callbacks: a function from a position to the other callbacks of a Keras `fit` that begins there. The rest of an
            interrupted epoch is a separate Keras `fit`.
        options: other arguments of Keras's `fit`.

    Raises:
        ValueError: if `steps_per_execution` does not divide `steps_per_epoch`.
    """
    if steps_per_epoch % model.steps_per_execution:
        raise ValueError(
            "Expected a number of steps that steps_per_execution divides, but received "
            f"steps_per_epoch={steps_per_epoch} and steps_per_execution={model.steps_per_execution}. Choose a divisor: "
            "otherwise Keras continues after the end of the epoch."
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
    if not spans:  # the run was interrupted after its last checkpoint
        model.optimizer.finalize_variable_values(model.trainable_variables)


def _spans(position: Position, epochs: int, steps_per_epoch: int) -> list[tuple[Position, int, int]]:
    """The calls of Keras's `fit`: the position at which each begins, its last epoch and its steps per epoch.

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
    """Keeps a Keras `fit` that is not the last one from replacing the weights by their averages at its end."""
    optimizer.finalize_variable_values = lambda variables: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
