"""Runs one training, from its Distiller to its saved result; shared by `train` and `distill`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kd_keras import data, distribute
from kd_keras.distiller import Distiller
from kd_keras.files import write_json
from kd_keras.networks.backbone import Trainable, restore_trainable
from kd_keras.networks.moving_statistics import warn_of_lag
from kd_keras.networks.saving import check_savable
from kd_keras.recording.reader import Recording
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.runs import devices
from kd_keras.runs.images import Images, load_images
from kd_keras.runs.inputs import INPUTS, check_inputs, image_inputs, teacher_inputs
from kd_keras.runs.lock import lock_directory
from kd_keras.runs.optimization import compile_distiller
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.run import Run
from kd_keras.runs.settings import Settings
from kd_keras.training import Checkpoint, NonFinite, Position, fit

logger = logging.getLogger("kd_keras")


@dataclass(frozen=True)
class Session:
    """The recipe, directory, images and devices of one training.

    Args:
        recipe: how to train.
        run: the run; only the chief worker writes to it.
        images: the images to train and to test on.
        strategy: the strategy under which everything is built.
    """

    recipe: Recipe
    run: Run
    images: Images
    strategy: tf.distribute.Strategy

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run."""
        return distribute.is_chief(self.strategy)

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """A context in which networks are built for the session's devices and in the precision of the recipe."""
        with self.strategy.scope(), devices.precision(self.recipe.precision):
            yield


@contextlib.contextmanager
def open_session(
    path: str | os.PathLike,
    settings: Settings,
    recipe: Recipe,
    strategy: tf.distribute.Strategy,
    overwrite: bool,
    load: Callable[[Recipe], Images] = load_images,
) -> Iterator[Session | Run]:
    """Opens a session and its images, or the run if it is already complete.

    Within the context the chief worker holds the lock of the directory. A run that is overwritten is not yet deleted.
    `load` loads the images of the recipe.

    Raises:
        ValueError: if the directory contains something other than this run, if another process trains it, if the images
            do not exist, or if Python objects with other images are passed for a complete run.
    """
    with contextlib.ExitStack() as stack:
        with distribute.chief_first(strategy):
            run = Run.prepare(path, settings, overwrite)
            if distribute.is_chief(strategy) and not run.is_complete:
                stack.enter_context(lock_directory(run.path))
                run = Run.prepare(path, settings, overwrite)  # another process may have changed it before the lock
            images = None if run.is_complete else load(recipe)
        if images is None:
            run.check_result()
            given = any(
                isinstance(source, (data.Source, tf.data.Dataset)) for source in (recipe.data, recipe.test_data)
            )
            if given and (run.path / INPUTS).exists():  # flags.txt only describes objects
                check_inputs(run.path, image_inputs(load(recipe)))
            logger.info("%s is complete: nothing to do.", run.path)
            yield run
        else:
            devices.begin(recipe, strategy)
            yield Session(recipe, run, images, strategy)


def train_student(
    session: Session,
    distiller: Distiller,
    known: dict[str, Any] | None = None,
    conclude: Callable[[], dict[str, Any]] = dict,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    trainable: Trainable = (),
) -> Run:
    """Trains the student of a Distiller from the last checkpoint of the run, and completes the run.

    Args:
        session: the recipe, directory, images and devices.
        distiller: trains the student; not yet compiled.
        known: further entries of the result.
        conclude: called by the chief after the last epoch, before the run is complete; it may write further files to
            the directory of the run, and returns further entries of the result.
        callbacks: further callbacks of the chief.
        trainable: which layers of the student are trainable after the training, if it was frozen for it.

    Raises:
        ValueError: if Keras cannot save the student, and no run is created; or if the run was started with other images
            or another teacher of the same names.
    """
    checkpoint, recipe, images = _checkpoint(session), session.recipe, session.images
    check_savable(distiller.student)
    warn_of_lag(distiller.student, images.steps * recipe.epochs)
    labeled = images.train.has_labels or images.test is not None
    with session.building():
        soft = recipe.has_soft_labels, recipe.label_smoothing
        objective = images.task.compile_options(*soft) if labeled else {}
        compile_distiller(distiller, recipe, session.strategy, images.steps, objective)
    with distribute.chief_first(session.strategy):
        if session.is_chief:
            session.run.delete_earlier()
    inputs = {**image_inputs(images), **teacher_inputs(distiller.teacher)}
    check_inputs(session.run.path, inputs)
    try:
        start = checkpoint.restore(distiller)
        if any(start):
            within = f" and {start.step} of {images.steps} steps of the next" * (start.step > 0)
            logger.info("Resuming after epoch %d of %d%s.", start.epoch, recipe.epochs, within)
        distribute.seed_replicas(session.strategy, distiller)
        _fit(session, distiller, checkpoint, inputs, callbacks)
    except Exception as error:
        checkpoint.on_train_end()  # restores the signal handlers; Keras does not call this after an error
        if session.is_chief and not checkpoint.has_trained and not isinstance(error, FloatingPointError):
            session.run.withdraw()  # a request that fails in its first step is invalid, too
        raise
    finally:
        restore_trainable(trainable)  # the user may have passed the network, and it is saved as it was
    if session.is_chief:
        seconds = round(checkpoint.seconds, 1)
        _complete(session, distiller, checkpoint, {"seconds": seconds, **(known or {}), **conclude()})
    return session.run


def _checkpoint(session: Session) -> Checkpoint:
    recipe = session.recipe
    return Checkpoint(
        session.run.path / "checkpoint",
        writes=session.is_chief,
        every_epochs=recipe.test_every,
        every_steps=recipe.checkpoint_every,
        keep=recipe.keep,
        best=f"val_{session.images.task.metric}",
    )


def _fit(
    session: Session,
    distiller: Distiller,
    checkpoint: Checkpoint,
    inputs: dict[str, Any],
    further: Sequence[keras.callbacks.Callback],
) -> None:
    recipe, images, strategy = session.recipe, session.images, session.strategy
    recording = distiller.teacher.recording if isinstance(distiller.teacher, RecordedTeacher) else None
    indexed = any(method.needs_index for method in distiller.methods)
    fit(
        distiller,
        checkpoint,
        lambda start: distribute.batches(
            strategy,
            lambda batch_slice: images.training_batches(start, recording, batch_slice=batch_slice, with_index=indexed),
        ),
        epochs=recipe.epochs,
        steps_per_epoch=images.steps,
        callbacks=lambda start: [
            *_callbacks(session, start, recording, inputs),
            *(further if session.is_chief else ()),
        ],
        shuffle=False,  # the pipeline has shuffled
        verbose=0 if recipe.test_every > 1 or not session.is_chief else _verbosity(),
        **images.test_options(strategy),
    )


def _verbosity() -> str | int:
    """Progress bars on a terminal, and one line per epoch in a log."""
    return "auto" if sys.stdout.isatty() else 2


def _callbacks(
    session: Session, start: Position, recording: Recording | None, inputs: dict[str, Any]
) -> list[keras.callbacks.Callback]:
    """The callbacks of `fit`: every worker measures and checks for non-finite values, the chief writes the metrics."""

    def replay(epoch: int, step: int) -> Any:
        return next(iter(session.images.training_batches(Position(epoch, step), recording, with_index=True)))

    guard = NonFinite(session.recipe.on_nonfinite, session.run.path if session.is_chief else None, replay, start)
    measuring = session.images.test_callbacks()
    if not session.is_chief:
        return [*measuring, guard]
    session.run.begin()  # not before, because an invalid request must not create a run
    write_json(session.run.path / INPUTS, inputs)
    progress = [progress_over_epochs(session.recipe)] if session.recipe.test_every > 1 else []
    task = session.images.task
    measured = task.metrics if task.is_open_set else ("loss", *task.metrics)
    names = [f"val_{name}" for name in measured] if measuring else []
    return [*measuring, guard, *session.run.loggers(start.epoch, names), *progress]


def progress_over_epochs(recipe: Recipe) -> keras.callbacks.Callback:
    """Reports the progress of a run of many short epochs: one bar on a terminal, or one line per test in a log."""
    bar = keras.utils.Progbar(recipe.epochs, unit_name="epoch") if sys.stdout.isatty() else None

    def report(epoch: int, logs: dict[str, float]) -> None:
        if not any(name.startswith("val_") for name in logs) and (epoch + 1) % recipe.test_every:
            return
        if bar is None:
            metrics = " - ".join(f"{name}: {value:.4g}" for name, value in logs.items())
            logger.info("Epoch %d/%d - %s", epoch + 1, recipe.epochs, metrics)
        else:
            bar.stateful_metrics = set(logs)
            bar.update(epoch + 1, list(logs.items()))

    return keras.callbacks.LambdaCallback(on_epoch_end=report)


def _complete(session: Session, distiller: Distiller, checkpoint: Checkpoint, known: dict[str, Any]) -> None:
    """Saves the student and the result."""
    result = {
        "epochs": session.recipe.epochs,
        "seed": session.recipe.seed,
        "task": session.images.task.name,
        **session.run.final_metrics(session.images.task.metric),
        **known,
        "parameters": distiller.student.count_params(),
        "data": session.images.describe(),
    }
    session.run.finish(distiller.student, result, lambda: checkpoint.restore(distiller, best=True))
    metric = session.images.task.metric
    if f"val_{metric}" in result["last"]:
        value = result["last"][f"val_{metric}"]
        logger.info("%s: %s %.4f after %d epochs", session.run.path, metric, value, session.recipe.epochs)
