"""Deep mutual learning: Zhang et al. 2018, *Deep Mutual Learning*, 1706.00384.

    python -m experiments.scheme --scheme=mutual --peer=resnet20 --peer=resnet20 --peer=mobilenet_v2 --data=cifar10 \\
        --epochs=60 --flip --crop=4 --run=runs/peers
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kd_keras import models
from kd_keras.distiller import Distiller
from kd_keras.errors import check_number
from kd_keras.evaluation import accuracy, predict
from kd_keras.files import write_atomically
from kd_keras.methods import DML, KD, Method
from kd_keras.runs import devices, students, teachers
from kd_keras.runs.directory import check_keeps
from kd_keras.runs.recipe import DEFAULTS, Data, make_recipe
from kd_keras.runs.run import Run, Trained
from kd_keras.runs.session import Session, open_session, train_student
from kd_keras.runs.settings import Settings
from kd_keras.runs.students import check_fine_tuning, names_model
from kd_keras.runs.teachers import TEACHER_OPTIONS, TeacherOptions
from kd_keras.schemes.outcome import Outcome, require_classification
from kd_keras.teacher import Teacher

LOGGER = logging.getLogger("kd_keras")
TEACHER_WEIGHT = 0.9  # as KD weighs a teacher


@dataclass(frozen=True)
class Peers(Outcome):
    """The complete run of a cohort, whose model is the ensemble of its peers, the mean of their predictions."""

    @property
    def files(self) -> list[str]:
        """The `.keras` file of each peer."""
        return [str(self.student.path / f"peer{number}.keras") for number in range(1, len(self._peers()) + 1)]

    def _peers(self) -> list[dict[str, Any]]:
        return self.student.result["peers"]

    def lines(self) -> list[str]:
        """A line for each peer, one for their mean, and one for the ensemble."""
        lines = []
        for file, peer in zip(self.files, self._peers(), strict=True):
            tested = f", accuracy {peer['accuracy']:.4f}" if "accuracy" in peer else ", not tested"
            lines.append(f"{file}: {peer['model']}, {peer['parameters']:,} parameters{tested}")
        accuracies = [peer["accuracy"] for peer in self._peers() if "accuracy" in peer]
        mean = [f"Mean of the peers: accuracy {sum(accuracies) / len(accuracies):.4f}"] if accuracies else []
        return [*lines, *mean, *(f"Ensemble: {line}" for line in super().lines())]


def train_peers(
    *,
    peers: Sequence[str],
    teacher: Trained | None = None,
    temperature: float = 1.0,
    teacher_weight: float = TEACHER_WEIGHT,
    data: Data = "digits",
    run: str | os.PathLike,
    **options: Any,
) -> Peers:
    """Trains several networks together, each from the labels and the predictions of the others in the same step.

    The loss is that of `methods.DML`, summed over the peers; each of them runs once in a step, and all are updated
    together. The paper updates them one after the other. The peers are built with the seeds `seed`, `seed + 1`, ..., so
    that peers of one architecture start from different weights. The run is that of the cohort, whose model predicts the
    mean of the peers; its files `peer1.keras`, `peer2.keras`, ... are the networks, and `peers` of its result has their
    accuracies. The same call resumes it.

    Args:
        peers: two or more models of the zoo.
        teacher: a network that teaches all peers in addition, as for `distill`, by KD at temperature 4.
        temperature: the temperature of the peers' predictions; 1 as published.
        teacher_weight: the weight of the teacher's predictions.
        data: labeled images, as `Recipe` describes.
        run: the directory of the run.
        **options: `overwrite`, the fields of `Recipe`, and with a teacher those of `TeacherOptions`.

    Returns:
        The run.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid.
        FloatingPointError: if the loss or gradients are not finite.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> both = train_peers(peers=["mlp(hidden=(8,))", "mlp(hidden=(4,))"], **tiny, run=f"{folder}/peers")
    >>> [peer["parameters"] for peer in both.student.result["peers"]]
    [610, 310]
    """
    overwrite = options.pop("overwrite", False)
    of_teacher = TeacherOptions(**{name: options.pop(name) for name in TEACHER_OPTIONS if name in options})
    weight = check_number("train_peers", "teacher_weight", teacher_weight, least=0)
    recipe, names = make_recipe(data=data, **options), _check_peers(peers)
    if recipe.label_smoothing:
        raise ValueError(
            f"label_smoothing={recipe.label_smoothing} has no effect on peers, whose loss DML computes from the labels"
            " themselves. Leave it out."
        )
    for name in names:
        check_fine_tuning(name, None, recipe)
    if teacher is None and (of_teacher != TeacherOptions() or weight != TEACHER_WEIGHT):
        names_of_options = ", ".join(f"{name}=" for name in ("teacher_weight", *TEACHER_OPTIONS))
        raise ValueError(f"{names_of_options} describe the use of teacher=, but received none. Leave them out.")
    if overwrite:
        check_keeps(run, [teacher])
    request: dict[str, Any] = {
        "scheme": "mutual",
        "peer": names,
        "temperature": DML(temperature=temperature).temperature,
    }
    if teacher is not None:
        request |= {"teacher": teachers.as_setting(teacher), "teacher_weight": weight, **of_teacher.settings()}
    settings = Settings({**recipe.settings(), **request}, DEFAULTS)
    with (
        devices.chosen_strategy(recipe) as strategy,
        open_session(run, settings, recipe, strategy, overwrite) as session,
    ):
        if isinstance(session, Run):
            return Peers((session,))
        require_classification("Mutual learning", session.images.task)
        with session.building():
            live = None if teacher is None else teachers.load_teacher(teacher, session.images, of_teacher, {"logits"})
            methods: list[Method] = [DML(temperature=temperature)]
            if live is not None:
                heads = tuple(f"peer{number}" for number in range(1, len(names) + 1))
                methods.append(KD(student_tap=heads, teacher_tap=("logits",) * len(names), weight=weight))
            cohort = _build_cohort(session, names)
            distiller = Distiller(student=cohort, teacher=live, methods=methods, hard_weight=0)
        LOGGER.info("Training %d peers, %s parameters.", len(names), f"{cohort.count_params():,}")
        return Peers((train_student(session, distiller, conclude=lambda: _save_peers(session, cohort, names)),))


def _check_peers(peers: Sequence[str]) -> list[str]:
    if isinstance(peers, str) or not all(isinstance(peer, str) and names_model(peer) for peer in peers):
        raise ValueError(f"The peers must be a list of models of the zoo, such as ['resnet8', 'mlp'], not {peers!r}.")
    if len(peers) < 2:
        raise ValueError(f"Mutual learning needs two or more peers, but received {list(peers)}. Pass peers=.")
    return list(peers)


def _build_cohort(session: Session, names: Sequence[str]) -> keras.Model:
    """Builds the peers, each with a seed of its own."""
    images = session.images
    if not images.train.has_labels or images.train.classes is None:
        raise ValueError(f"Mutual learning needs labeled images, but {images.train.name!r} has no labels.")
    networks = []
    for number, name in enumerate(names):
        keras.utils.set_random_seed(session.recipe.seed + number)
        networks.append(students.build_network(name, images, images.train.classes))
    keras.utils.set_random_seed(session.recipe.seed)
    return models.cohort(networks)


def _save_peers(session: Session, cohort: keras.Model, names: Sequence[str]) -> dict[str, Any]:
    """Saves each peer, and measures its accuracy."""
    peers = []
    for number, name in enumerate(names, start=1):
        network = cohort.get_layer(f"network{number}")
        write_atomically(session.run.path / f"peer{number}.keras", network.save)
        peer: dict[str, Any] = {"model": name, "parameters": network.count_params()}
        if session.images.test is not None:
            predictions = predict(Teacher(network), session.images.test_batches())
            peer["accuracy"] = float(dict(accuracy(predictions))["accuracy"])
        peers.append(peer)
    return {"peers": peers}
