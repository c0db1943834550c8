"""Distills a student from a teacher, from several teachers, from recorded outputs, or from itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import keras

from kd_keras.data.selection import take_evenly
from kd_keras.distiller import Distiller
from kd_keras.errors import check_choice
from kd_keras.methods import Method
from kd_keras.methods.schedules import Weight
from kd_keras.networks.quantization import float_layers, quantization_aware
from kd_keras.networks.quantized_layers import is_quantization_aware
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.runs import devices, students, teachers
from kd_keras.runs.directory import check_keeps
from kd_keras.runs.images import Images, read_images
from kd_keras.runs.inputs import check_inputs, given_teacher_inputs
from kd_keras.runs.methods import make_methods, methods_setting, weight_description, weight_setting
from kd_keras.runs.own_teachers import refuse_function
from kd_keras.runs.recipe import DEFAULTS, Data, Recipe, make_recipe
from kd_keras.runs.run import Run
from kd_keras.runs.session import Session, open_session, train_student
from kd_keras.runs.settings import Settings
from kd_keras.runs.students import Network
from kd_keras.runs.teachers import TEACHER_OPTIONS, TeacherOptions, TeacherSource
from kd_keras.teacher import Teacher

logger = logging.getLogger("kd_keras")
QUANTIZATIONS = {"int8": "average", "int8_lsq": "gradient"}  # how the ranges of activations are learned
RANGE_IMAGES = 200  # from which the ranges of activations start


@dataclass(frozen=True, kw_only=True)
class Request:
    """The networks, methods and weights of one distillation, as `distill` takes them."""

    teacher: TeacherSource | None
    teacher_options: TeacherOptions
    student: Network
    methods: Sequence[str | Method]
    hard_weight: Weight | None
    recording: str | os.PathLike | None
    weights: str | os.PathLike | None
    quantize: str | None = None
    keep_float: Sequence[str] = ()
    kernel_bits: int = 8

    def settings(self, recipe: Recipe) -> Settings:
        """The request and its recipe as flags.txt records them."""
        values = {
            "teacher": teachers.as_setting(self.teacher),
            **self.teacher_options.settings(),
            "student": students.as_setting(self.student),
            "method": methods_setting(self.methods),
            "hard_weight": weight_setting(self.hard_weight),
            "recording": None if self.recording is None else os.fspath(self.recording),
            "weights": None if self.weights is None else os.fspath(self.weights),
            "quantize": self.quantize,
            "keep_float": list(self.keep_float),
            "kernel_bits": None if self.quantize is None else self.kernel_bits,
        }
        defaults = {
            **DEFAULTS,
            **TeacherOptions().settings(),
            "student": "mobilenet_v2",
            "method": ["kd"],
            "quantize": None,
            "keep_float": [],
            "kernel_bits": 8,
        }
        return Settings({**recipe.settings(), **values}, defaults)

    def load_teachers(self, images: Images) -> tuple[Teacher | None, Teacher | RecordedTeacher | None]:
        """The live teacher, and the one that teaches: the recorded one if there is one."""
        live = None
        if self.teacher is not None:
            taps = {tap for method in make_methods(self.methods) for tap in method.taps.teacher}
            live = teachers.load_teacher(self.teacher, images, self.teacher_options, taps)
        return live, live if self.recording is None else teachers.load_recorded(self.recording, images, live)

    def check_same_teacher(self, run: Run) -> None:
        """Checks that a complete run learned from this teacher if it is a Python object.

        flags.txt has the same description for two of the same shapes.

        Raises:
            ValueError: if it learned from another one.
        """
        if self.recording is None and self.teacher_options.teacher_precision is None:
            check_inputs(run.path, given_teacher_inputs(self.teacher))

    def check(self, overwritten: str | os.PathLike | None = None) -> None:
        """Rejects a request that cannot be trained, before any data is loaded.

        Args:
            overwritten: a directory whose content is to be deleted first.

        Raises:
            TypeError: if the teacher is of another type than `distill` takes, or `keep_float` is a text.
            ValueError: if `keep_float` or `kernel_bits` is passed without `quantize`; if the quantization is unknown,
                or the student to quantize is not trained or already quantization-aware; if the teacher must be
                recorded first; if a method needs a teacher and there is none; if there is a teacher and no method
                needs one; if there are options of a teacher without one; if a method does not train the student; or if
                a network or the recording is in the directory that is overwritten.
        """
        if overwritten is not None:
            networks = self.teacher if isinstance(self.teacher, (list, tuple)) else [self.teacher]
            check_keeps(overwritten, [*networks, self.student, self.weights, self.recording])
        if isinstance(self.keep_float, str):
            raise TypeError(f"keep_float must be a list of names, but received {self.keep_float!r}.")
        if self.quantize is None and (self.keep_float or self.kernel_bits != 8):
            raise ValueError("keep_float= and kernel_bits= belong to quantize='int8', but received no quantize=.")
        if self.quantize is not None:
            check_choice("distill", "quantize", self.quantize, QUANTIZATIONS)
            if not (isinstance(self.student, keras.Model) or students.is_pretrained(self.student, self.weights)):
                raise ValueError(
                    f"quantize={self.quantize!r} starts from a trained student, but {students.describe(self.student)!r}"
                    " starts from new weights. Train it first, and pass its run as student=."
                )
            if isinstance(self.student, keras.Model) and is_quantization_aware(self.student):
                raise ValueError(
                    f"quantize={self.quantize!r} needs a float student, but {self.student.name!r} is already "
                    "quantization-aware. Leave out quantize=; the student keeps the kind of its ranges."
                )
        refuse_function(self.teacher)
        methods = make_methods(self.methods)
        needing = [method.name for method in methods if method.taps.teacher]
        if needing and self.teacher is None and self.recording is None:
            raise ValueError(f"{', '.join(needing)} needs teacher= or recording=, but received neither.")
        if self.teacher is not None and not needing:
            names = ", ".join(method.name for method in methods)
            raise ValueError(
                f"Expected a method that needs the teacher, but no method needs one: received methods=[{names}]. Leave"
                " out teacher=, or add a method such as kd."
            )
        if self.teacher is None and self.teacher_options != TeacherOptions():
            names = ", ".join(f"{name}=" for name in TEACHER_OPTIONS)
            raise ValueError(f"{names} describe the use of teacher=, but received none. Leave them out.")
        first_stage = [method.name for method in methods if not method.trains_student]
        if first_stage:
            raise ValueError(
                f"{', '.join(first_stage)} is the first of two stages and does not train the student. Run both stages "
                "in Python with kd_keras.Distiller, as the documentation of the method shows."
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
    quantize: str | None = None,
    keep_float: Sequence[str] = (),
    kernel_bits: int = 8,
    overwrite: bool = False,
    **options: Any,
) -> Run:
    """Distills a student. It resumes, reports its progress and handles SIGTERM as `train` does.

    Args:
        teacher: a `Run`, the path of a run or of a `.keras` file, a Keras model, a `Teacher`, a text that names trained
            weights such as "applications/ResNet50(weights='imagenet')", or a list of several networks; `None` for a
            recorded teacher, or for a network that teaches itself.
        student: as the `model` of `train`.
        data: labeled images, or with `hard_weight=0` any images, as `Recipe` describes.
        methods: methods such as `methods.KD(temperature=4)`, or their texts: "kd(temperature=4)", or
            "my_methods.py:Cosine(weight=1)" for a class in a file of yours.
        hard_weight: weight of the loss on the labels, a number or {epoch: number, ...}; by default the one published
            with the methods, if they agree, else 1.
        run: the directory of the run.
        recording: directory of the recorded outputs of a teacher, from `record`. If `teacher` is passed too, its
            outputs for one batch are compared with the recorded ones.
        weights: a file to start the student from, as for `train`.
        quantize: "int8" to train a trained classifier for its LiteRT int8 file, as `kd_keras.quantization_aware` says.
            "int8_lsq" learns the ranges of activations by gradient instead of moving averages, with the optimizer "sgd"
            or "dot". The float student may be its own teacher. A tenth of the epochs of its training is enough;
            `export` in the formats "litert_int8" and "onnx" writes the file.
        keep_float, kernel_bits: of `quantize`, as for `kd_keras.quantization_aware`.
        overwrite: whether to delete an earlier run in that directory.
        **options: `teacher_weights`, `teacher_precision`, `teacher_range` and `combine` as `TeacherOptions` describes
            them, and everything else that `Recipe` takes.

    Returns:
        The run.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type; no run is created.
        FileNotFoundError: if a dataset is neither prepared nor downloadable, or a folder has no images.
        ValueError: if the request is invalid; no run is created.
        FloatingPointError: if the loss or gradients are not finite.

    >>> import tempfile
    >>> from kd_keras.runs.train import train
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "epochs": 2, "test_every": 2}
    >>> teacher = train(model="mlp(hidden=(8,))", **tiny, run=f"{folder}/teacher")
    >>> distill(teacher=teacher, student="mlp(hidden=(4,))", **tiny, run=f"{folder}/student").is_complete
    True
    """
    for_teacher = {name: options.pop(name) for name in TEACHER_OPTIONS if name in options}
    request = Request(
        teacher=teacher, teacher_options=TeacherOptions(**for_teacher), student=student, methods=methods,
        hard_weight=hard_weight, recording=recording, weights=weights, quantize=quantize,
        keep_float=keep_float, kernel_bits=kernel_bits,
    )  # fmt: skip
    pretrained, own = students.is_pretrained(student, weights), signature(distill).parameters
    recipe = make_recipe(pretrained, own, data=data, **options)
    request.check(run if overwrite else None)
    if quantize == "int8_lsq" and recipe.optimizer not in ("sgd", "dot"):
        raise ValueError(
            f"quantize='int8_lsq' needs optimizer='sgd' or 'dot', but received {recipe.optimizer!r}, whose learning "
            "rate or updates would change small steps too much. Pass 'sgd', or use quantize='int8'."
        )
    with devices.chosen_strategy(recipe) as strategy:
        with open_session(run, request.settings(recipe), recipe, strategy, overwrite) as session:
            if isinstance(session, Run):
                request.check_same_teacher(session)
                return session
            return _distill(session, request)


def _distill(session: Session, request: Request) -> Run:
    images = session.images
    if request.quantize is not None and not images.task.exports_learned_ranges:
        raise ValueError(
            f"quantize={request.quantize!r} needs images for classification, but received images for"
            f" {images.task.name}, whose int8 exports do not have learned ranges. Leave it out, and export the float"
            " student in int8."
        )
    with session.building():
        images = teachers.name_classes(images, request.teacher)
        live, teacher = request.load_teachers(images)
        images = teachers.name_classes(images, teacher)
        session = replace(session, images=images)
        # Loading a teacher draws random numbers and a recorded one draws none; the student must not depend on it.
        keras.utils.set_random_seed(session.recipe.seed)
        classes = images.train.classes or _teacher_classes(images, teacher)
        sizes: dict[str, Any] = {"classes": classes, "batch_size": session.recipe.batch_size}
        methods = make_methods(request.methods, examples=images.train.size, **sizes)
        student = students.build_network(request.student, images, classes, request.weights)
        if request.quantize is not None:
            student = _quantized(student, images, request, QUANTIZATIONS[request.quantize])
        trainable = students.prepare_training(student, request.student, request.weights, session.recipe)
        student = _adapt_to_methods(student, methods, live)
    _announce(session, request, live, student)
    known: dict[str, Any] = teachers.measure(live, images) if live else {}
    with session.building():
        distiller = Distiller(student=student, teacher=teacher, methods=methods, hard_weight=request.hard_weight)
    weight = distiller.hard_weight
    if not images.train.has_labels and weight != 0:
        raise ValueError(f"{images.train.name!r} has no labels for a hard loss of weight {weight}. Pass hard_weight=0.")
    if session.recipe.label_smoothing and weight == 0:
        raise ValueError(
            f"label_smoothing={session.recipe.label_smoothing} has no effect, because hard_weight=0 leaves out the loss"
            " on the labels. Leave it out."
        )
    known["hard_weight"] = weight if isinstance(weight, (int, float)) else weight_description(request.hard_weight)
    known["hard_weight_reason"] = distiller.hard_weight_reason
    return train_student(session, distiller, known, trainable=trainable)


def _quantized(student: keras.Model, images: Images, request: Request, ranges: str) -> keras.Model:
    """The quantization-aware student, whose ranges start from training images `(N, H, W, C)` uint8."""
    pixels, _ = read_images(take_evenly(images.train, RANGE_IMAGES), images.shape[:2], images.recipe.batch_size)
    student = quantization_aware(
        student, pixels, keep_float=request.keep_float, ranges=ranges, kernel_bits=request.kernel_bits
    )
    in_float = float_layers(student)
    logger.info("In int8: all layers%s.", f" except {', '.join(in_float)}" if in_float else "")
    return student


def _teacher_classes(images: Images, teacher: Teacher | RecordedTeacher | None) -> int:
    if teacher is None:
        raise ValueError(
            f"{images.train.name!r} has no labels, so that the number of classes must come from teacher= or recording=,"
            " but received neither."
        )
    tap = images.task.class_tap
    units = teacher.tapped([tap]).specs[tap].shape[-1]
    return max(2, units) if tap == "logits" else units  # a single unit has two classes


def _adapt_to_methods(student: keras.Model, methods: Sequence[Method], live: Teacher | None) -> keras.Model:
    """The student that the methods train, which may contain a part of the teacher."""
    for method in methods:
        chosen, student = student, method.student_from(student, live.networks[0] if live else None)
        if student is not chosen and live and live.class_order:
            raise ValueError(
                f"{method.name} builds a part of the teacher into the student, so that both need the same order of "
                "classes, but the classes of the images are in another order than those of the teacher. Pass images "
                "with the teacher's order of classes."
            )
    return student


def _announce(session: Session, request: Request, live: Teacher | None, student: keras.Model) -> None:
    if request.teacher is None:
        names = [os.fspath(request.recording) if request.recording is not None else "itself"]
    else:
        is_teacher = isinstance(request.teacher, Teacher)
        networks = [] if is_teacher else teachers.as_list(request.teacher)
        names = ["a Teacher"] if is_teacher else [students.describe(network) for network in networks]
    size = f" ({sum(network.count_params() for network in live.networks):,} parameters)" if live else ""
    logger.info(
        "Distilling %s%s into %s (%s) on %s images.",
        " and ".join(names), size, students.describe(request.student), f"{student.count_params():,}",
        f"{session.images.train.size:,}",
    )  # fmt: skip
