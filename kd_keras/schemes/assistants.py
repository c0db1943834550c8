"""Teacher assistants: Mirzadeh et al. 2020, *Improved Knowledge Distillation via Teacher Assistant*, 1902.03393.

Dense guidance: Son et al. 2021, *Densely Guided Knowledge Distillation using Multiple Teacher Assistants*, 2009.08825.

    python -m experiments.scheme --scheme=assistants --teacher=runs/resnet56 --student=resnet8 --data=cifar10 \\
        --epochs=60 --flip --crop=4 --run=runs/assistants
    python -m experiments.scheme --scheme=assistants --dense --assistant=resnet32 --assistant=resnet14 \\
        --teacher=runs/resnet56 --student=resnet8 --data=cifar10 --epochs=60 --flip --crop=4 --run=runs/dense
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kd_keras import models
from kd_keras.methods import Method
from kd_keras.runs import devices, distill, load_network
from kd_keras.runs.recipe import make_recipe
from kd_keras.runs.run import Run, Trained
from kd_keras.runs.students import names_model
from kd_keras.runs.teachers import TEACHER_OPTIONS
from kd_keras.schemes.outcome import Outcome, as_texts, refuse, run_path

LOGGER = logging.getLogger("kd_keras")


def distill_by_assistants(
    *,
    teacher: Trained,
    student: str,
    assistants: Sequence[str] | None = None,
    dense: bool = False,
    methods: Sequence[str | Method] | None = None,
    run: str | os.PathLike,
    **options: Any,
) -> Outcome:
    """Distills a teacher into its first assistant, every assistant into the next one, and the last into the student.

    Each link is an ordinary distillation, a run of its own in `<run>/<number>-<network>`. The same call resumes an
    interrupted scheme: complete runs are reused, and the interrupted one resumes.

    Args:
        teacher: a run, the path of a run or of a `.keras` file, or a Keras model.
        student: a model of the zoo.
        assistants: models of the zoo, the first one learns from the teacher; by default `choose_assistants`.
        dense: whether each network learns from all networks before it, and not only from the last one.
        methods: the methods of every link, as for `distill`; by default "kd", and with `dense` "dgkd".
        run: the directory of the scheme.
        **options: the other options of `distill`, for every link: `data`, `hard_weight`, `overwrite`, the fields of
            `Recipe`, and those of `TeacherOptions`, which concern the teacher and not the assistants.

    Returns:
        The runs of the assistants and of the student.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid, there is no assistant, or a directory contains a run of another request.
        FloatingPointError: if the loss or gradients of a link are not finite.

    >>> import tempfile
    >>> from kd_keras.runs import train
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> teacher = train(model="mlp(hidden=(16,))", **tiny, run=f"{folder}/teacher")
    >>> chain = distill_by_assistants(
    ...     teacher=teacher, assistants=["mlp(hidden=(8,))"], student="mlp(hidden=(4,))", **tiny, run=f"{folder}/chain"
    ... )
    >>> [run.path.name for run in chain.runs]
    ['1-mlp', '2-mlp']
    """
    reason = "the networks of a scheme start from new weights and learn from each other"
    refuse("distill_by_assistants", options, ("weights", "recording"), reason)
    if dense:
        reason = "with dense=True the teacher and the assistants are one teacher of several networks"
        refuse("distill_by_assistants", options, ("teacher_weights", "teacher_range", "combine"), reason)
    if assistants is None:
        of_devices = {name: options[name] for name in ("strategy", "devices", "worker_timeout") if name in options}
        with devices.chosen_strategy(make_recipe(**of_devices)):  # before TensorFlow runs its first operation
            assistants = choose_assistants(teacher, student)
    chain = [*assistants, student]
    _check_chain(teacher, chain)
    texts = as_texts((["dgkd"] if dense else ["kd"]) if methods is None else methods)
    runs: list[Run] = []
    for number, network in enumerate(chain, start=1):
        LOGGER.info("Link %d of %d: %s.", number, len(chain), network)
        if number > 1 and not dense:
            options = {name: value for name, value in options.items() if name not in TEACHER_OPTIONS}
        before: list[Trained] = [teacher, *runs]
        teachers = before if dense else before[-1]
        path = run_path(run, number, network)
        runs.append(distill(teacher=teachers, student=network, methods=texts, run=path, **options))
    return Outcome(tuple(runs))


def _check_chain(teacher: Any, chain: Sequence[str]) -> None:
    if isinstance(teacher, (list, tuple)) or not isinstance(teacher, (str, os.PathLike, keras.Model)):
        raise TypeError(f"The teacher must be a Run, a path or a Keras model, but received {type(teacher).__name__}.")
    wrong = [network for network in chain if not isinstance(network, str) or not names_model(network)]
    if wrong:
        raise ValueError(
            f"The assistants and the student must be models of the zoo, such as 'resnet14', but received {wrong}."
        )
    if len(chain) == 1:
        raise ValueError(
            "The scheme needs at least one assistant, but received none. Pass assistants=, or use distill."
        )


def choose_assistants(teacher: Trained, student: str) -> list[str]:
    """Chooses assistants of the student's family whose numbers of parameters halve from the teacher to the student.

    P is the teacher's number of parameters. For each of P/2, P/4, ... above the student's number, the result contains
    the network of the student's family whose number is nearest by ratio. All of them are smaller than the teacher and
    larger than the student. In the paper, one assistant is best if its accuracy, not its size, is mid-way, and the
    whole path is better than any single assistant.

    Args:
        teacher: as for `distill_by_assistants`.
        student: a model of the zoo without options.

    Returns:
        The names of the assistants, the largest first.

    Raises:
        ValueError: if the zoo has no such network.

    >>> choose_assistants(models.build("wrn_40_2", (8, 8, 1), 10), "wrn_16_1")
    ['wrn_16_2', 'wrn_40_1']
    """
    network = load_network(teacher)
    shape, classes = network.input_shape[1:], network.output_shape[-1]
    family = _family(student)
    names = [name for name in models.names() if _family(name) == family] if "(" not in student else []
    counts = {name: models.build(name, shape, classes).count_params() for name in names}
    chosen = halving_path(counts, network.count_params(), counts.get(student, 0))
    if not chosen:
        raise ValueError(
            f"Expected networks of the zoo between the teacher, of {network.count_params():,} parameters, and the "
            f"student {student!r}, but its family has none. Pass assistants=."
        )
    return chosen


def _family(name: str) -> str:
    """What the names of a family have in common, which differ in numbers.

    >>> _family("wrn_40_2") == _family("wrn_16_1"), _family("resnet18_imagenet") == _family("resnet20")
    (True, False)
    """
    return re.sub(r"_?\d+", "", name)


def halving_path(counts: Mapping[str, int], largest: int, smallest: int) -> list[str]:
    """The names whose counts come nearest to largest / 2, largest / 4, ... above `smallest`, without repetition.

    >>> halving_path({"a": 90, "b": 55, "c": 20, "d": 10}, largest=100, smallest=10)
    ['b', 'c']
    """
    between = {name: count for name, count in counts.items() if smallest < count < largest}
    goals = itertools.takewhile(lambda goal: goal > smallest, (largest / 2**power for power in itertools.count(1)))
    if not between or smallest <= 0:
        return []
    nearest = [min(between, key=lambda name: abs(math.log(between[name] / goal))) for goal in goals]
    return sorted(dict.fromkeys(nearest), key=lambda name: -between[name])
