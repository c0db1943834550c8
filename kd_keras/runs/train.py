"""Trains a network on labels, without distillation: a teacher, or the baseline of a student."""

from __future__ import annotations

import logging
import os
from inspect import signature
from typing import Any

from kd_keras.distiller import Distiller
from kd_keras.runs import devices, students
from kd_keras.runs.directory import check_keeps
from kd_keras.runs.recipe import DEFAULTS, Data, make_recipe
from kd_keras.runs.run import Run
from kd_keras.runs.session import Session, open_session, train_student
from kd_keras.runs.settings import Settings
from kd_keras.runs.students import Network

logger = logging.getLogger("kd_keras")


def train(
    *,
    model: Network = "resnet20",
    data: Data = "digits",
    run: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Run:
    """Trains a network on labeled images, without distillation.

    The same call resumes an interrupted run and returns a complete one unchanged. Progress goes to the logger
    "kd_keras". On SIGTERM or SIGINT the process saves a checkpoint after the current step and exits. While it trains it
    holds a lock of the directory, so that a second process cannot train the same run.

    Args:
        model: a model of the zoo, such as "resnet20" or "mlp(hidden=(32,))", a run or a `.keras` file, or a Keras model
            whose outputs are logits.
        data: labeled images, as `Recipe` describes.
        run: the directory of the run.
        weights: a `.keras`, `.weights.h5` or `.h5` file to start from, as a whole or in part.
        overwrite: whether to delete an earlier run in that directory.
        **options: everything else that `Recipe` takes: `epochs=`, `batch_size=`, `learning_rate=`, `flip=`, ...

    Returns:
        The run. In a cluster only the chief writes it.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type; no run is created.
        FileNotFoundError: if a dataset is neither prepared nor downloadable, or a folder has no images.
        ValueError: if the request is invalid, or another process trains the run; no run is created.
        FloatingPointError: if the loss or gradients are not finite.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> run = train(model="mlp(hidden=(8,))", **tiny, run=f"{folder}/run")
    >>> run.is_complete, run.model().output_shape
    (True, (None, 10))
    """
    recipe = make_recipe(students.is_pretrained(model, weights), signature(train).parameters, data=data, **options)
    network = {"model": students.as_setting(model), "weights": None if weights is None else os.fspath(weights)}
    settings = Settings({**recipe.settings(), **network}, {**DEFAULTS, "model": "resnet20"})
    if overwrite:
        check_keeps(run, (model, weights))
    with devices.chosen_strategy(recipe) as strategy:
        with open_session(run, settings, recipe, strategy, overwrite) as session:
            return session if isinstance(session, Run) else _train(session, model, weights)


def _train(session: Session, model: Network, weights: str | os.PathLike | None) -> Run:
    images = session.images
    if not images.train.has_labels:
        raise ValueError(
            f"Training needs labeled images, but {images.train.name!r} has no labels. Distill from a teacher with"
            " hard_weight=0 instead."
        )
    if images.train.classes is None:
        raise ValueError(
            f"Training needs the number of classes, but {images.train.name!r} has none. Make the Source with classes=."
        )
    with session.building():
        network = students.build_network(model, images, images.train.classes, weights)
        trainable = students.prepare_training(network, model, weights, session.recipe)
        distiller = Distiller(student=network, hard_weight=1.0)
    size = f"{network.count_params():,} parameters"
    logger.info("Training %s (%s) on %s images.", students.describe(model), size, f"{images.train.size:,}")
    return train_student(session, distiller, trainable=trainable)
