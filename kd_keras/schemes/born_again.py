"""Born-again networks: Furlanello et al. 2018, *Born-Again Neural Networks*, 1805.04770.

    python -m experiments.scheme --scheme=born_again --student=resnet20 --generations=3 --data=cifar10 --epochs=60 \\
        --flip --crop=4 --run=runs/born_again
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kd_keras.errors import check_whole_number
from kd_keras.methods import Method
from kd_keras.methods.schedules import Weight
from kd_keras.runs import distill, train
from kd_keras.runs.images import load_images
from kd_keras.runs.recipe import Data, make_recipe
from kd_keras.runs.run import Run
from kd_keras.runs.students import names_model
from kd_keras.runs.teachers import measure
from kd_keras.schemes.outcome import Outcome, as_texts, refuse, run_path
from kd_keras.teacher import Teacher

LOGGER = logging.getLogger("kd_keras")
EQUAL_KD = "kd(temperature=1, weight=1)"  # with a hard loss of weight 1


@dataclass(frozen=True)
class Generations(Outcome):
    """The complete runs of born-again networks.

    Attributes:
        runs: of the generations 0 to k in order; generation 0 learned from the labels alone.
        ensemble_accuracy: the accuracy of `teacher()` on the test images, or `None` if there are none.
    """

    ensemble_accuracy: float | None = None

    def teacher(self) -> Teacher:
        """The ensemble of the generations 1 to k as a teacher: the mean of their probabilities, section 3.1.

        `distill(teacher=generations.runs[1:], ...)` distills the same ensemble into a student.
        """
        return Teacher([run.model() for run in self.runs[1:]])

    def lines(self) -> list[str]:
        """A line for each generation, and one for the ensemble."""
        if self.ensemble_accuracy is None:
            return super().lines()
        last = len(self.runs) - 1
        return [*super().lines(), f"Ensemble of generations 1 to {last}: accuracy {self.ensemble_accuracy:.4f}"]


def train_generations(
    *,
    student: str,
    generations: int = 3,
    data: Data = "digits",
    methods: Sequence[str | Method] = (EQUAL_KD,),
    hard_weight: Weight | None = 1.0,
    seed: int = 0,
    run: str | os.PathLike,
    **options: Any,
) -> Generations:
    """Trains a network on labels, and distills it into a new network of the same architecture, again and again.

    Generation 0 is a run of `train`, and generation k a run of `distill` whose teacher is generation k - 1; its seed is
    `seed + k`, so that it starts from other weights. The loss of the paper, section 3.1, is the default: the cross
    entropy with the labels plus that with the teacher's probabilities, at temperature 1 and with equal weights. The
    network after the last epoch of a generation, not the best one, teaches the next. The runs are in
    `<run>/<generation>-<model>`; the same call resumes an interrupted scheme.

    Args:
        student: a model of the zoo.
        generations: k, the number of generations after generation 0.
        data: labeled images, as `Recipe` describes.
        methods: the methods of all generations but generation 0, as for `distill`.
        hard_weight: the weight of the hard loss of all generations but generation 0, as for `distill`.
        seed: the seed of generation 0.
        run: the directory of the scheme.
        **options: the other options of `distill`, for every generation: `overwrite` and the fields of `Recipe`.

    Returns:
        The runs of all generations.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid, or a directory contains a run of another request.
        FloatingPointError: if the loss or gradients of a generation are not finite.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> born = train_generations(student="mlp(hidden=(4,))", generations=2, **tiny, run=f"{folder}/born")
    >>> len(born.runs), len(born.teacher().networks)
    (3, 2)
    """
    check_whole_number("train_generations", "generations", generations)
    reason = "every generation starts from new weights and learns from the one before"
    refuse("train_generations", options, ("weights", "recording", "teacher"), reason)
    if not isinstance(student, str) or not names_model(student):
        raise ValueError(f"The student must be a model of the zoo, such as 'resnet20', but received {student!r}.")
    texts = as_texts(methods)
    recipe = make_recipe(data=data, seed=seed, **{key: value for key, value in options.items() if key != "overwrite"})
    runs: list[Run] = []
    for number in range(generations + 1):
        LOGGER.info("Generation %d of %d.", number, generations)
        shared = {**options, "data": data, "seed": seed + number, "run": run_path(run, number, student)}
        if number == 0:
            runs.append(train(model=student, **shared))
        else:
            taught: dict[str, Any] = {"teacher": runs[-1], "methods": texts, "hard_weight": hard_weight}
            runs.append(distill(student=student, **taught, **shared))
    keras.utils.set_random_seed(seed)
    born = Generations(tuple(runs))
    return Generations(born.runs, measure(born.teacher(), load_images(recipe)).get("teacher_accuracy"))
