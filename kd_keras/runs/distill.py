"""Distillation: a student from a teacher, from several, from recorded outputs, or from itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kd_keras.distiller import Distiller
from kd_keras.methods import Method
from kd_keras.methods.schedules import Weight
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.runs import devices, students, teachers
from kd_keras.runs.images import Images
from kd_keras.runs.methods import make_methods, methods_setting, weight_description, weight_setting
from kd_keras.runs.recipe import DEFAULTS, Data, Recipe, recipe
from kd_keras.runs.run import Run
from kd_keras.runs.session import Session, open_session, train_student
from kd_keras.runs.settings import Settings
from kd_keras.runs.students import Network
from kd_keras.runs.teachers import TEACHER_OPTIONS, TeacherOptions, TeacherSource
from kd_keras.teacher import Teacher

logger = logging.getLogger("kd_keras")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is distilled into what, by which methods; see `distill`."""

    teacher: TeacherSource | None
    teacher_options: TeacherOptions
    student: Network
    methods: Sequence[str | Method]
    hard_weight: Weight | None
    recording: str | os.PathLike | None
    weights: str | os.PathLike | None

    def settings(self, plan: Recipe) -> Settings:
        """The request and its recipe as flags.txt records them."""
        values = {
            "teacher": teachers.as_setting(self.teacher),
            **self.teacher_options.settings(),
            "student": students.as_setting(self.student),
            "method": methods_setting(self.methods),
            "hard_weight": weight_setting(self.hard_weight),
            "recording": None if self.recording is None else os.fspath(self.recording),
            "weights": None if self.weights is None else os.fspath(self.weights),
        }
        defaults = {**DEFAULTS, **TeacherOptions().settings(), "student": "mobilenet_v2", "method": ["kd"]}
        return Settings({**plan.settings(), **values}, defaults)

    def check(self) -> None:
        """Refuses what could not be trained, before any data is loaded.

        Raises:
            ValueError: if the methods need a teacher and there is none, or the other way round.
        """
        methods = make_methods(self.methods)
        needing = [method.name for method in methods if method.taps.teacher]
        if needing and self.teacher is None and self.recording is None:
            raise ValueError(f"{', '.join(needing)} needs --teacher= or --recording=, but neither is given.")
        if self.teacher is not None and not needing:
            names = ", ".join(method.name for method in methods)
            raise ValueError(f"A teacher is given, but no method needs one: {names}. Leave out --teacher=.")
        first_stage = [method.name for method in methods if not method.trains_student]
        if first_stage:
            raise ValueError(
                f"{', '.join(first_stage)} does not train the student. Run a method of two stages with a Distiller in "
                "Python, and pass on what the first stage trained."
            )
        if self.teacher is not None and not isinstance(self.teacher, Teacher):
            teachers.as_list(self.teacher)


def distill(
    *,
    teacher: TeacherSource | None = None,
    student: Network = "mobilenet_v2",
    data: Data = "digits",
    methods: Sequence[str | Method] = ("kd",),
    hard_weight: Weight | None = None,
    run: str | os.PathLike,
    recording: str | os.PathLike | None = None,
    weights: str | os.PathLike | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Run:
    """Distills a student. Resuming, progress and SIGTERM are as for `train`.

    Args:
        teacher: a `Run`, the path of a run or of a `.keras` file, a Keras model, a `Teacher`, or a list of several
            networks; `None` for a recorded teacher, or for a network that teaches itself.
        student: as the `model` of `train`.
        data: labeled images, or with `hard_weight=0` any images, as `Recipe` describes.
        methods: methods such as `methods.KD(temperature=4)`, or their texts "kd(temperature=4)".
        hard_weight: weight of the loss on the labels, a number or {epoch: number, ...}; by default the published one of
            the methods, if they agree, else 1.
        run: the directory of the run.
        recording: directory of the recorded outputs of a teacher, from `record`. If `teacher` is given too, its outputs
            for one batch are compared.
        weights: a file to start the student from.
        overwrite: whether to delete an earlier run in that directory.
        **options: `teacher_weights`, `teacher_precision`, `teacher_range` and `combine` as `TeacherOptions` describes
            them, and everything else that `Recipe` takes.

    Returns:
        The run.

    Raises:
        TypeError: for an unknown option or a value of the wrong type.
        ValueError: if the request is wrong; then no run is created.
        FloatingPointError: if the loss or gradients are not finite.

    >>> import tempfile
    >>> from kd_keras.runs.train import train
    >>> place = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": place, "epochs": 1}
    >>> teacher = train(model="mlp(hidden=(8,))", **tiny, run=f"{place}/teacher")
    >>> distill(teacher=teacher, student="mlp(hidden=(4,))", **tiny, run=f"{place}/student").is_complete
    True
    """
    for_teacher = {name: options.pop(name) for name in TEACHER_OPTIONS if name in options}
    request = Request(
        teacher=teacher, teacher_options=TeacherOptions(**for_teacher), student=student, methods=methods,
        hard_weight=hard_weight, recording=recording, weights=weights,
    )  # fmt: skip
    plan = recipe(data=data, **options)
    request.check()
    with devices.chosen_strategy(plan) as strategy:
        session = open_session(run, request.settings(plan), plan, strategy, overwrite)
        return session if isinstance(session, Run) else _distill(session, request)


def _distill(session: Session, request: Request) -> Run:
    images, live = session.images, None
    with session.building():
        if request.teacher is not None:
            live = teachers.load_teacher(request.teacher, images, request.teacher_options)
        teacher = live if request.recording is None else teachers.load_recorded(request.recording, images, live)
        keras.utils.set_random_seed(
            session.recipe.seed
        )  # loading a teacher draws numbers, and a recorded one draws none
        methods = make_methods(request.methods, examples=images.train.size, batch_size=session.recipe.batch_size)
        classes = images.train.classes or _teacher_classes(images, teacher)
        student = students.build_network(request.student, images, classes, request.weights)
        student = _in_form_of_methods(student, methods, live)
    _announce(session, request, live, student)
    known: dict[str, Any] = teachers.measure_accuracy(live, images) if live else {}
    with session.building():
        distiller = Distiller(student=student, teacher=teacher, methods=methods, hard_weight=request.hard_weight)
    weight = distiller.hard_weight
    if not images.train.has_labels and weight != 0:
        raise ValueError(f"{images.train.name!r} has no labels for a hard loss of weight {weight}. Pass hard_weight=0.")
    known["hard_weight"] = weight if isinstance(weight, (int, float)) else weight_description(request.hard_weight)
    known["hard_weight_reason"] = distiller.hard_weight_reason
    return train_student(session, distiller, known, teacher.recording if request.recording is not None else None)


def _teacher_classes(images: Images, teacher: Teacher | RecordedTeacher | None) -> int:
    if teacher is None:
        raise ValueError(
            f"{images.train.name!r} has no labels: --teacher= or --recording= is needed, but neither is given."
        )
    return teacher.tapped(["logits"]).specs["logits"].shape[-1]


def _in_form_of_methods(student: keras.Model, methods: Sequence[Method], live: Teacher | None) -> keras.Model:
    """The student in the form that the methods train, which may have a part of the teacher."""
    for method in methods:
        chosen, student = student, method.student_from(student, live.networks[0] if live else None)
        if student is not chosen and live and live.class_order:
            raise ValueError(
                f"{method.name} makes its student with a part of the teacher, whose classes are in another order than "
                "those of the images. Name the classes of the images in the teacher's order."
            )
    return student


def _announce(session: Session, request: Request, live: Teacher | None, student: keras.Model) -> None:
    if request.teacher is None:
        names = [os.fspath(request.recording) if request.recording is not None else "itself"]
    else:
        made = isinstance(request.teacher, Teacher)
        names = ["a Teacher"] if made else [students.describe(network) for network in teachers.as_list(request.teacher)]
    size = f" ({sum(network.count_params() for network in live.networks):,} parameters)" if live else ""
    logger.info(
        "Distilling %s%s into %s (%s) on %s images.",
        " and ".join(names), size, students.describe(request.student), f"{student.count_params():,}",
        f"{session.images.train.size:,}",
    )  # fmt: skip
