"""A student that learns from itself: from its state one epoch ago, or from the average of its weights.

PS-KD: Kim et al. 2021, *Self-Knowledge Distillation with Progressive Refinement of Targets*, 2006.12000.

    python -m experiments.scheme --scheme=past_student --student=resnet20 --alpha=0.8 --data=cifar10 --epochs=60 \\
        --flip --crop=4 --run=runs/past

Mean teacher: Tarvainen and Valpola 2017, *Mean teachers are better role models*, 1703.01780.

    python -m experiments.scheme --scheme=mean_teacher --student=resnet20 --decay=0.999 --consistency=1 \\
        --data=cifar10 --epochs=60 --flip --crop=4 --run=runs/mean
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import keras

from kd_keras.distiller import Distiller
from kd_keras.errors import check_number, check_whole_number
from kd_keras.evaluation import accuracy, predict
from kd_keras.files import write_atomically
from kd_keras.methods import KD
from kd_keras.runs import devices, students
from kd_keras.runs.recipe import DEFAULTS, Data, Recipe, make_recipe
from kd_keras.runs.run import Run
from kd_keras.runs.session import Session, open_session, train_student
from kd_keras.runs.settings import Settings
from kd_keras.schemes.outcome import Outcome, require_classification
from kd_keras.teacher import Teacher
from kd_keras.training import FollowingTeacher

LOGGER = logging.getLogger("kd_keras")


def past_student_weights(epochs: int, alpha: float = 0.8) -> tuple[dict[int, float], dict[int, float]]:
    """The weights of PS-KD by epoch: of the hard loss, 1 - alpha_t, and of the past student's predictions, alpha_t.

    The target of epoch t from 1 is (1 - alpha_t) y + alpha_t p_(t-1) with alpha_t = alpha t / T, equations 3 and 4. The
    first epoch has no past and learns from the labels alone, as in the authors' code.

    Args:
        epochs: T.
        alpha: the weight in the last epoch, in [0, 1].

    >>> past_student_weights(4)[1]
    {0: 0.0, 1: 0.4, 2: 0.6, 3: 0.8}
    """
    growing = {epoch: alpha * (epoch + 1) / epochs if epoch else 0.0 for epoch in range(epochs)}
    soft = {epoch: round(value, 12) for epoch, value in growing.items()}
    return {epoch: round(1 - value, 12) for epoch, value in soft.items()}, soft


def consistency_weights(epochs: int, consistency: float, rampup_epochs: int) -> dict[int, float]:
    """The weights of the mean teacher's predictions by epoch: w exp(-5 (1 - t / R)^2) in epoch t < R, then w.

    >>> {epoch: round(value, 4) for epoch, value in consistency_weights(4, 2.0, rampup_epochs=2).items()}
    {0: 0.0135, 1: 0.573, 2: 2.0}
    """
    ramp = {t: consistency * math.exp(-5 * (1 - t / rampup_epochs) ** 2) for t in range(min(rampup_epochs, epochs))}
    return {**ramp, rampup_epochs: consistency}


def train_with_past_student(
    *, student: str = "resnet20", alpha: float = 0.8, data: Data = "digits", run: str | os.PathLike, **options: Any
) -> Outcome:
    """Trains a network on labels and on its own predictions of one epoch ago, with a weight that grows (PS-KD).

    The weights are those of `past_student_weights`, and the predictions those of the student at the end of the previous
    epoch, in inference and for the same view of an image. The authors' code takes those that it stored when it trained
    on another view in the previous epoch.

    Args:
        student: a model of the zoo.
        alpha: the weight of the past predictions in the last epoch, in [0, 1]; 0.8 as published.
        data: labeled images, as `Recipe` describes.
        run: the directory of the run. The same call resumes it.
        **options: the other options of `train`, without `weights`.

    Returns:
        The run.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid.
        FloatingPointError: if the loss or gradients are not finite.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> train_with_past_student(student="mlp(hidden=(8,))", **tiny, run=f"{folder}/run").student.is_complete
    True
    """
    alpha = check_number("train_with_past_student", "alpha", alpha, least=0, most=1)
    overwrite = options.pop("overwrite", False)
    recipe = make_recipe(data=data, **options)
    students.check_fine_tuning(student, None, recipe)
    hard, soft = past_student_weights(recipe.epochs, alpha)
    return _teach_itself(run, {"scheme": "past_student", "alpha": alpha}, student, recipe, None, hard, soft, overwrite)


def train_with_mean_teacher(
    *,
    student: str = "resnet20",
    decay: float = 0.999,
    consistency: float = 1.0,
    rampup_epochs: int = 5,
    data: Data = "digits",
    run: str | os.PathLike,
    **options: Any,
) -> Outcome:
    """Trains a network on labels and on the predictions of the exponential moving average of its own weights.

    The loss is CE(y, p) + w_t KL(p_average || p) with the weights of `consistency_weights`. The average is that of
    `training.FollowingTeacher`; it contains the statistics of BatchNorm, and predicts in inference for the same view of
    an image, whereas the authors show it another one and keep its dropout. The network of the run is the student. The
    average, which the authors use, is the file `teacher.keras` of the run after the training, and `averaged_accuracy`
    of the result is its accuracy on the test images.

    Args:
        student: a model of the zoo.
        decay: the decay of the average in [0, 1).
        consistency: w, the weight of its predictions after the ramp.
        rampup_epochs: R, the number of epochs of the ramp.
        data: labeled images, as `Recipe` describes.
        run: the directory of the run. The same call resumes it.
        **options: the other options of `train`, without `weights`.

    Returns:
        The run.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid.
        FloatingPointError: if the loss or gradients are not finite.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> run = train_with_mean_teacher(student="mlp(hidden=(8,))", **tiny, run=f"{folder}/run").student
    >>> (run.path / "teacher.keras").exists(), "averaged_accuracy" in run.result
    (True, True)
    """
    decay = check_number("train_with_mean_teacher", "decay", decay, least=0, below=1)
    consistency = check_number("train_with_mean_teacher", "consistency", consistency, least=0)
    rampup_epochs = check_whole_number("train_with_mean_teacher", "rampup_epochs", rampup_epochs, least=0)
    overwrite = options.pop("overwrite", False)
    recipe = make_recipe(data=data, **options)
    students.check_fine_tuning(student, None, recipe)
    soft = consistency_weights(recipe.epochs, consistency, rampup_epochs)
    named = {"scheme": "mean_teacher", "decay": decay, "consistency": consistency, "rampup_epochs": rampup_epochs}
    return _teach_itself(run, named, student, recipe, decay, 1.0, soft, overwrite)


def _teach_itself(
    path: str | os.PathLike,
    scheme: Mapping[str, Any],
    student: str,
    recipe: Recipe,
    decay: float | None,
    hard_weight: float | dict[int, float],
    soft_weight: dict[int, float],
    overwrite: bool,
) -> Outcome:
    """Trains a student with a `FollowingTeacher`; `scheme` has the flags that only experiments.scheme knows."""
    if not isinstance(student, str) or students.is_saved(student):
        raise ValueError(f"The student must be a model of the zoo, such as 'resnet20', but received {student!r}.")
    settings = Settings({**recipe.settings(), **scheme, "student": student}, DEFAULTS)
    with (
        devices.chosen_strategy(recipe) as strategy,
        open_session(path, settings, recipe, strategy, overwrite) as session,
    ):
        if isinstance(session, Run):
            return Outcome((session,))
        images = session.images
        require_classification("A student that teaches itself", images.task)
        if not images.train.has_labels or images.train.classes is None:
            raise ValueError(f"A student that teaches itself needs labeled images, but {images.train.name!r} has none.")
        with session.building():
            network = students.build_network(student, images, images.train.classes)
            teacher = FollowingTeacher(network, decay=decay)
            methods = [KD(temperature=1.0, weight=soft_weight)]
            distiller = Distiller(student=network, teacher=teacher, methods=methods, hard_weight=hard_weight)
        LOGGER.info("%s teaches itself on %s images.", student, f"{images.train.size:,}")
        average = None if decay is None else teacher.networks[0]
        return Outcome((train_student(session, distiller, conclude=lambda: _save_average(session, average)),))


def _save_average(session: Session, average: keras.Model | None) -> dict[str, float]:
    """Saves the average of the student, and measures its accuracy."""
    if average is None:
        return {}
    write_atomically(session.run.path / "teacher.keras", average.save)
    if session.images.test is None:
        return {}
    value = float(dict(accuracy(predict(Teacher(average), session.images.test_batches())))["accuracy"])
    LOGGER.info("The accuracy of the average of the student is %.4f.", value)
    return {"averaged_accuracy": value}
