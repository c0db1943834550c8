"""Loads the teacher of a run from runs, files, Keras models, a `Teacher` or a recording."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from kd_keras.contracts import as_batch
from kd_keras.ensembles import COMBINATIONS, EnsembleWeights, normalize_weights
from kd_keras.errors import explain_mismatch, shorten
from kd_keras.evaluation.images import order_classes
from kd_keras.functions import FunctionTeacher
from kd_keras.functions.pixel_range import PixelRange
from kd_keras.models.hub import hub_encoder, is_encoder, preset_classes
from kd_keras.networks.freezing import PRECISIONS, frozen
from kd_keras.private_api import sub_layers
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.runs import students
from kd_keras.runs.devices import warn_of_emulation
from kd_keras.runs.images import Images
from kd_keras.runs.own_teachers import (
    as_function,
    load_saved_model,
    refuse_function,
    refuse_options,
    saved_class_names,
)
from kd_keras.runs.parsing import parse_call
from kd_keras.runs.run import Run, Trained, load_network, recorded_data
from kd_keras.runs.settings import GivenObject
from kd_keras.teacher import Teacher
from kd_keras.training import Position

logger = logging.getLogger("kd_keras")
IMAGENET_CLASSES = 1000
TEACHER_OPTIONS = ("teacher_weights", "teacher_precision", "teacher_range", "combine")
TeacherSource: TypeAlias = Trained | Teacher | FunctionTeacher | Sequence[Trained]


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """How the networks of a teacher are used.

    Args:
        teacher_weights: the weights of several networks in their average; equal by default. A list of K numbers for
            each network are the weights of the classes; "cross_entropy" weighs each network by its cross entropy on
            each training example, as `Teacher` describes it.
        teacher_precision: replace the networks by frozen copies in this precision with folded batch normalization; by
            default the networks are used as they are.
        teacher_range: the lowest and the highest pixel value that the networks expect, such as (0, 1) or (-1, 1); by
            default (0, 255), which every network of this project expects.
        combine: what is averaged over several networks: "probabilities" (default) or "logits".

    Raises:
        ValueError: if a value is out of range.
    """

    teacher_weights: EnsembleWeights | None = None
    teacher_precision: str | None = None
    teacher_range: tuple[float, float] | None = None
    combine: str = COMBINATIONS[0]

    def __post_init__(self) -> None:
        if self.teacher_precision not in (None, *PRECISIONS):
            raise ValueError(f"teacher_precision must be one of {PRECISIONS}, but received {self.teacher_precision!r}.")
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine must be one of {COMBINATIONS}, but received {self.combine!r}.")
        if isinstance(self.teacher_weights, str):
            normalize_weights(self.teacher_weights, 2)
        limits = self.teacher_range
        if limits is not None and not (
            len(limits) == 2 and all(isinstance(limit, (int, float)) for limit in limits) and limits[0] < limits[1]
        ):
            raise ValueError(
                f"teacher_range must be (lowest, highest) with lowest < highest, but received {shorten(limits)}."
            )

    def settings(self) -> dict[str, Any]:
        """The values as a flagfile records them, by name of the flag."""
        return {name: _as_tuples(value) for name, value in vars(self).items()}


def load_teacher(source: TeacherSource, images: Images, options: TeacherOptions, taps: Collection[str] = ()) -> Teacher:
    """Loads a live teacher whose classes are in the order of the images' classes.

    For faces, whose test people are in no training image, a teacher may know other people if no method reads logits.

    Args:
        source: as `distill` takes it.
        images: the images of the run.
        options: how the networks are used.
        taps: the taps that the methods read.

    Raises:
        TypeError: if the source is of another type.
        ValueError: if a network does not exist, is damaged or lacks a class of the images, or if there are options
            in addition to a `Teacher` object.
    """
    if isinstance(source, Teacher):
        if options != TeacherOptions():
            raise ValueError(
                f"A Teacher object must come without further options, but received {options}. Pass them to Teacher()."
            )
        return source
    refuse_function(source)
    sources = as_list(source)
    names = images.train.class_names
    reads_classes = not images.task.is_open_set or any("logits" in tap for tap in taps)
    orders = [order_classes(_class_names(network), names) if reads_classes else None for network in sources]
    if any(order != orders[0] for order in orders):
        raise ValueError(
            f"All teachers must have their classes in the same order, but received the orders {orders} relative to the "
            "images. Train them on the same classes."
        )
    if orders[0] is not None and images.task.class_tap != "logits":
        raise ValueError(
            f"The classes of a teacher for {images.task.name} must have the order of the images' classes {names}, but "
            f"{students.describe(sources[0])} has them in another order. Train it on the same classes."
        )
    networks = [_load_or_build(network, images, taps) for network in sources]
    if options.teacher_precision:
        warn_of_emulation("teacher_precision", options.teacher_precision)
        networks = [frozen(network, options.teacher_precision) for network in networks]
    for network in networks:
        images.check_channels(network, "teacher")
    return Teacher(
        networks,
        weights=options.teacher_weights,
        combine=options.combine,
        preprocess=None if options.teacher_range is None else PixelRange(*options.teacher_range),
        class_order=orders[0],
    )


def load_any_teacher(
    source: TeacherSource, images: Images, options: TeacherOptions, taps: Collection[str] = ()
) -> Teacher | FunctionTeacher:
    """Loads a teacher to record: as `load_teacher`, or a function, a file of another runtime, a server or arrays.

    Raises:
        TypeError: as `load_teacher`.
        ValueError: as `load_teacher`, and if the function cannot be a teacher.
    """
    limits = options.teacher_range
    function = as_function(source, None if limits is None else PixelRange(*limits), images.recipe)
    if function is None:
        return load_teacher(source, images, options, taps)
    names = [name for name in TEACHER_OPTIONS if name != "teacher_range"]
    changed = [name for name in names if getattr(options, name) != getattr(TeacherOptions, name)]
    refuse_options(source, {name: getattr(options, name) for name in changed})
    return function.ordered(order_classes(function.origin.class_names, images.train.class_names))


def name_classes(images: Images, teacher: TeacherSource | RecordedTeacher | None) -> Images:
    """Images without labels whose classes are those of a teacher, so that its student knows their names.

    Args:
        images: the images of the run; those with labels or names are returned as they are.
        teacher: as `distill` or `record` takes it, or loaded, as some know their names only then; of several, the names
            are those of the first.
    """
    if images.train.class_names is not None or images.train.has_labels:
        return images
    first = teacher[0] if isinstance(teacher, (list, tuple)) and teacher else teacher
    names: Sequence[str] | None = None
    if isinstance(first, (str, os.PathLike, Run)):
        names = _class_names(first)
    elif isinstance(first, RecordedTeacher):
        names = first.class_names
    elif isinstance(first, FunctionTeacher):
        names = first.origin.class_names
    if names is None:
        return images
    return replace(images, train=replace(images.train, class_names=tuple(names), classes=len(names)))


def _class_names(source: Trained) -> Sequence[str] | None:
    """The classes of a network in the order of its outputs, or `None` if they are not known."""
    return saved_class_names(source) or recorded_data(source).get("class_names")


def _load_or_build(source: Trained, images: Images, taps: Collection[str]) -> keras.Model:
    """Loads a network or a SavedModel, or builds the model with trained weights that a text names."""
    saved = load_saved_model(source)
    if saved is not None:
        return saved
    if not isinstance(source, str) or not students.names_model(source):
        return load_network(source)
    if not students.is_pretrained(source):
        raise ValueError(
            f"A teacher must be trained, but {source!r} names a model with new weights. Train it first, or name "
            "trained weights, such as applications/ResNet50(weights='imagenet')."
        )
    classes = images.train.classes or IMAGENET_CLASSES
    own = _own_classes(source, classes) if "logits" in taps else classes
    if own != classes:
        classifier = f"a classifier of {own} classes" if own else "no classifier"
        raise ValueError(
            f"The methods read the teacher's logits, but {source!r} has {classifier} and the images have {classes}. "
            "Train a classifier first, with experiments.train --freeze_backbone, or choose methods that read features, "
            "such as rkd."
        )
    logger.info("The teacher is %s, which is built for images of %s.", source, images.shape)
    preset = students.preset_name(parse_call(source)[0])
    if preset is not None and is_encoder(preset):
        return hub_encoder(preset, images.shape)
    return students.build_network(source, images, classes)


def _own_classes(source: str, classes: int) -> int | None:
    """The number of classes of the classifier that belongs to trained weights; `None` if they have none."""
    name, arguments = parse_call(source)
    if arguments.get("weights") == "imagenet":
        return IMAGENET_CLASSES
    preset = students.preset_name(name)
    return classes if preset is None else preset_classes(preset)


def load_recorded(recording: str | os.PathLike, images: Images, live: Teacher | None) -> RecordedTeacher:
    """Loads a recorded teacher; if the live teacher is passed too, its outputs for one batch are compared.

    Raises:
        ValueError: if the recording is of other images, another teacher or another order of classes, or is damaged.
    """
    teacher = Teacher.recorded(recording, live)
    recorded, names = teacher.class_names, images.train.class_names
    if recorded is not None and names is not None and list(recorded) != list(names):
        expected = f"images with the classes of the recording {os.fspath(recording)}, {shorten(recorded)}"
        advice = "record again with the same test_data=, whose order of the classes is then recorded"
        raise ValueError(explain_mismatch(expected, shorten(list(names)), advice))
    batch = as_batch(next(iter(images.training_batches(Position(), teacher.recording))))
    if live is not None:
        ready = live.tapped(teacher.specs)
        outputs = tf.function(lambda images: dict(ready(images)))(batch.inputs)  # compiled, as it was recorded
        layers = [layer for network in live.networks for layer in sub_layers(network)]
        # bfloat16 has eight significant bits, and other devices and software round differently.
        coarse = any(layer.compute_dtype == "bfloat16" for layer in layers)
        difference = teacher.recording.compare(outputs, batch.recorded, 2e-2 if coarse else 2e-3)
        logger.info("%s: the live teacher differs by %.1e on %d images.", recording, difference, len(batch.index))
    return teacher


def measure(teacher: Teacher, images: Images) -> dict[str, float]:
    """The teacher's metrics on the test images, as a result records them; empty if there are no test images."""
    if images.test is None:
        return {}
    metrics = images.task.measure(teacher, images.test, images.test_batches())
    for name, value in metrics.items():
        logger.info("The teacher's %s on %s test images is %.4f.", name, f"{images.test.size:,}", value)
    return {f"teacher_{name}": value for name, value in metrics.items()}


def _as_tuples(value: Any) -> Any:
    """Lists within a setting as tuples; other values as they are."""
    return tuple(map(_as_tuples, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def as_list(source: TeacherSource) -> list[Trained]:
    """The networks of a teacher as a list, even if there is only one.

    Raises:
        TypeError: if a network is of another type.
    """
    networks = list(source) if isinstance(source, (list, tuple)) else [source]
    for network in networks:
        if not isinstance(network, (str, os.PathLike, Run, keras.Model)):
            raise TypeError(
                "A teacher must be a Run, a path, a Keras model, a Teacher, or a list of runs, paths and models, but "
                f"received {shorten(network)}."
            )
    return networks


def as_setting(source: TeacherSource | None) -> Any:
    """A teacher as flags.txt records it: one line for each of its networks."""
    if source is None:
        return None
    if isinstance(source, Teacher):
        return [GivenObject(f"a Teacher of {[network.count_params() for network in source.networks]} parameters")]
    return [students.as_setting(network) for network in as_list(source)]
