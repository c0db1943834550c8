"""The teacher: one trained network or several, frozen and not tracked by Keras."""

from __future__ import annotations

import copy
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, TapSpec, Tensor
from kd_keras.errors import check_choice, check_integers, shorten
from kd_keras.functions import (
    FunctionTeacher,
    arrays_teacher,
    litert_teacher,
    onnx_teacher,
    python_teacher,
    read_saved_model,
    refuse_live,
    served_teacher,
)
from kd_keras.networks.foreign import as_networks, is_plain_function
from kd_keras.networks.inputs import (
    check_same_images,
    reads_smaller_images,
    resize_to_input,
    select_inputs,
)
from kd_keras.networks.sharing import check_separate
from kd_keras.networks.specs import Specs
from kd_keras.networks.taps import Tapped
from kd_keras.primitives import as_two_classes
from kd_keras.private_api import sub_layers
from kd_keras.recording.identity import teacher_identity
from kd_keras.recording.reader import Recording
from kd_keras.recording.teacher import RecordedTeacher

COMBINATIONS = ("probabilities", "logits")


class Teacher:
    """One network or several whose outputs a student follows.

    A plain object: Keras neither tracks nor trains nor saves it with the student. It always runs in inference, and its
    variables never change. It receives the images that the student receives, float32 from 0 to 255, applies
    `preprocess` to them, and resizes them if a network has a fixed input size of its own.

    Args:
        networks: a built Keras model, or several. A built layer, a `keras.layers.TFSMLayer`, what
            `tf.saved_model.load` returns and a model of tf_keras are accepted too; they have only logits. For a Python
            function, `Teacher(function)` is a `FunctionTeacher`, as `functions.python_teacher` makes it, to record.
        weights: the weight of each of several networks, 0 or more, normalized to sum to 1; equal by default.
        combine: "probabilities", the logarithm of the weighted mean of the softmax at temperature 1 (of sigmoids: the
            logit of their weighted mean), or "logits", their weighted mean.
        preprocess: a function from the student's images `(B, H, W, C)` to the teacher's `(B, H', W', C')`, for example
            one that changes the range of pixel values; one function, or one for each network.
        class_order: K different integers, for each class of the student its position among the teacher's classes; by
            default teacher and student have the same classes in the same order. A teacher of one unit z has the two
            classes with the logits (0, z).

    Raises:
        TypeError: if a network, or another argument, is of the wrong kind.
        ValueError: if there is no network, the weights do not fit, `combine` is unknown, or a position is negative or
            repeated.

    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> teacher = Teacher([network, network], combine="logits").tapped(["logits"])
    >>> teacher.specs["logits"].shape
    (None, 3)
    >>> teacher(ops.ones((2, 4)))["logits"].shape[0]
    2
    """

    litert = staticmethod(litert_teacher)
    onnx = staticmethod(onnx_teacher)
    served = staticmethod(served_teacher)
    arrays = staticmethod(arrays_teacher)

    def __new__(cls, networks: Any = None, **options: Any) -> Any:
        """A `FunctionTeacher` for a function, which is no part of a graph; else an empty `Teacher`."""
        return python_teacher(networks, **options) if is_plain_function(networks) else super().__new__(cls)

    def __init__(
        self,
        networks: keras.Model | Sequence[keras.Model],
        *,
        weights: Sequence[float] | None = None,
        combine: str = "probabilities",
        preprocess: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]] | None = None,
        class_order: Sequence[int] | None = None,
    ):
        refuse_live(networks)
        self.networks = as_networks(networks)
        if not self.networks:
            raise ValueError("A Teacher needs at least one network, but received none.")
        if class_order is not None and min(check_integers("Teacher", "class_order", class_order), default=-1) < 0:
            raise ValueError(
                "Teacher(class_order=...) must be positions of classes, counted from 0, but received "
                f"{shorten(class_order)}."
            )
        if class_order is not None and len(set(class_order)) < len(class_order):
            raise ValueError(
                f"Expected a class_order of different positions, one for each class of the student, but received "
                f"{shorten(class_order)}. Name each of the teacher's classes at most once."
            )
        self.combine = check_choice("Teacher", "combine", combine, COMBINATIONS)
        self.weights = _normalize_weights(weights, len(self.networks))
        self.preprocess = _for_each_network(preprocess, len(self.networks))
        self.class_order = None if class_order is None else [int(position) for position in class_order]
        self.specs = Specs({})
        self._tapped: list[Tapped] = []

    @staticmethod
    def recorded(directory: str | os.PathLike, live: Teacher | FunctionTeacher | None = None) -> RecordedTeacher:
        """Opens a recording of a teacher's outputs as a teacher; its networks are not needed.

        Give its `recording` to the pipeline, `data.training(..., recorded=teacher.recording)`, and the teacher to a
        Distiller.

        Args:
            directory: the folder of the recording.
            live: the same teacher, to verify that the recording was made with its weights.

        Raises:
            ValueError: if the recording is incomplete or damaged, or of another teacher than `live`.
        """
        recording = Recording(directory)
        if live is not None:
            recording.check("teacher", teacher_identity(live))
        return RecordedTeacher(recording)

    @staticmethod
    def saved_model(
        directory: str | os.PathLike, *, output: str | None = None, probabilities: bool = False, **options: Any
    ) -> Teacher:
        """A SavedModel as a teacher, which can be recorded or used directly; it has only logits.

        Args:
            directory, output, probabilities: as `functions.read_saved_model` takes them.
            **options: `preprocess` and `class_order` as for `Teacher`.

        Raises:
            ValueError: if it is no SavedModel from one tensor of images, or the output is not clear.
        """
        return Teacher(read_saved_model(directory, output=output, probabilities=probabilities), **options)

    def tapped(self, wanted: Iterable[str]) -> Teacher:
        """A copy of the teacher that delivers the wanted taps; its `specs` say which shapes they have.

        Raises:
            ValueError: if a network lacks a tap, a tap other than logits is wanted of several networks, the networks
                differ in their number of classes, or `class_order` contains a class that does not exist.
        """
        wanted = list(dict.fromkeys(wanted))
        feature_taps = [tap for tap in wanted if tap != "logits"]
        if feature_taps and len(self.networks) > 1:
            raise ValueError(
                f"A method that needs the taps {feature_taps} needs one teacher, but received {len(self.networks)}. "
                "Only the logits of several teachers are combined: pass one of the teachers."
            )
        teacher = copy.copy(self)
        teacher._tapped = [Tapped(network, wanted, output=False) for network in self.networks]
        teacher.specs = teacher._tapped[0].specs.reordered(self.class_order)
        if "logits" in teacher.specs:
            teacher.specs["logits"] = teacher._logits_spec()
        return teacher

    @property
    def head_specs(self) -> list[TapSpec]:
        """The specifications of the logits of each network, if they are wanted."""
        return [tapped.specs["logits"] for tapped in self._tapped if "logits" in tapped.specs]

    def _logits_spec(self) -> TapSpec:
        specs = self.head_specs
        first, shapes = specs[0], [spec.shape for spec in specs]
        if len({shape[-1] for shape in shapes}) > 1:
            raise ValueError(f"Several teachers must have one class count, but their logits have the shapes {shapes}.")
        if {"softmax", "sigmoid"} <= {spec.activation for spec in specs}:
            heads = [spec.activation for spec in specs]
            raise ValueError(f"Several teachers must all end in a softmax or all in a sigmoid, but received {heads}.")
        if self.class_order is None:
            return first
        is_unit = first.shape[-1] == 1
        classes, activation = (2, "softmax" if first.activation else "") if is_unit else (first.shape[-1], first[2])
        if max(self.class_order) >= classes:
            raise ValueError(
                f"Teacher(class_order=...) must be positions below {classes}, the teacher's class count, but received "
                f"{max(self.class_order)}."
            )
        return TapSpec(first.layer, (*first.shape[:-1], len(self.class_order)), activation)

    def check_student(self, student: keras.Model) -> None:
        """Checks that training a student leaves the teacher unchanged, and that both read the same kind of images.

        Raises:
            ValueError: if the student shares trainable variables with a network, or if the rank or the channels of the
                images differ for a network without `preprocess`.
        """
        check_separate(student, self.networks)
        for network, preprocess in zip(self.networks, self.preprocess, strict=True):
            if not preprocess:
                check_same_images(student, network)

    def supports_jit(self, student_shape: tuple | None) -> bool:
        """Whether XLA can compile the teacher: all its layers, and no antialiased resize, which XLA lacks.

        Args:
            student_shape: the student's input shape with the batch dimension, or `None` if it is unknown.
        """
        return not any(
            reads_smaller_images(network, student_shape) or not all(layer.supports_jit for layer in sub_layers(network))
            for network in self.networks
        )

    def outputs(self, batch: Batch) -> Outputs:
        """The taps for one batch: the recorded ones if the batch has them, else those of one inference pass."""
        if batch.recorded is not None:
            return Outputs(batch.recorded)
        return self(batch.inputs) if self.specs else Outputs()

    def __call__(self, inputs: Any) -> Outputs:
        """The wanted taps for images, from inference passes without gradient; several networks also give `members`."""
        members = [self._run(*member, inputs) for member in zip(self._tapped, self.preprocess, strict=True)]
        if len(members) == 1:
            return members[0]
        return Outputs({"logits": self._combined([outputs["logits"] for outputs in members])}, members=members)

    def _run(self, tapped: Tapped, preprocess: Callable | None, inputs: Any) -> Outputs:
        _, outputs = tapped(prepare_images(tapped.model, preprocess, inputs), training=False)
        if self.class_order is not None and "logits" in outputs:
            is_unit = outputs["logits"].shape[-1] == 1
            logits = as_two_classes(outputs["logits"]) if is_unit else outputs["logits"]
            outputs["logits"] = ops.take(logits, self.class_order, axis=-1)
        return Outputs(keras.tree.map_structure(ops.stop_gradient, dict(outputs)))

    def _combined(self, logits: list[Tensor]) -> Tensor:
        stacked = ops.stack([ops.cast(tensor, "float32") for tensor in logits])
        weights = ops.reshape(ops.convert_to_tensor(self.weights, "float32"), (-1, *[1] * len(logits[0].shape)))
        if self.combine == "logits":
            return ops.sum(weights * stacked, axis=0)
        if self.specs["logits"].activation == "sigmoid" or stacked.shape[-1] == 1:
            odds = [ops.logsumexp(ops.log_sigmoid(sign * stacked) + ops.log(weights), axis=0) for sign in (1, -1)]
            return odds[0] - odds[1]
        return ops.logsumexp(ops.log_softmax(stacked, axis=-1) + ops.log(weights), axis=0)


def prepare_images(network: keras.Model, preprocess: Callable[[Tensor], Tensor] | None, images: Any) -> Any:
    """Prepares images for one of a teacher's networks: applies its `preprocess`, and resizes to its input size.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> prepare_images(network, lambda images: images / 255.0, ops.zeros((2, 4, 4, 3))).shape
    TensorShape([2, 8, 8, 3])
    """
    return resize_to_input(network, select_inputs(network, preprocess(images) if preprocess else images))


def _normalize_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if isinstance(weights, numbers.Real):
        raise TypeError(f"Teacher(weights=...) must be {count} weights in a list, but received {shorten(weights)}.")
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count or not all(isinstance(w, numbers.Real) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise ValueError(
            f"Teacher(weights=...) must be {count} weights, none below zero and not all zero, but received "
            f"{shorten(weights)}."
        )
    return [float(weight) / sum(weights) for weight in weights]


def _for_each_network(preprocess: Any, count: int) -> list[Callable | None]:
    if preprocess is None or callable(preprocess):
        return [preprocess] * count
    if not isinstance(preprocess, (list, tuple)) or not all(one is None or callable(one) for one in preprocess):
        received = f"{shorten(preprocess)} ({type(preprocess).__name__})"
        raise TypeError(f"Teacher(preprocess=...) must be a function, or a list of functions, but received {received}.")
    if len(preprocess) != count:
        raise ValueError(f"Teacher(preprocess=...) must be one function or {count}, but received {len(preprocess)}.")
    return list(preprocess)


class AbsentTeacher:
    """The teacher of a Distiller that needs none, or was loaded from a file: it knows only what its taps deliver.

    Args:
        specs: by the tap's name, as `Teacher.specs`.
    """

    def __init__(self, specs: Mapping[str, TapSpec | list[TapSpec]]):
        self.specs = specs if isinstance(specs, Specs) else Specs(specs)

    def tapped(self, wanted: Iterable[str]) -> AbsentTeacher:
        """The same object: the wanted taps existed when the Distiller was saved."""
        return self

    def supports_jit(self, student_shape: tuple | None) -> bool:
        """Always true, because no network runs."""
        return True

    def outputs(self, batch: Batch) -> Outputs:
        """The recorded taps of a batch; nothing if no method needs a teacher.

        Raises:
            ValueError: if a teacher is needed and the batch has no recorded outputs.
        """
        if batch.recorded is not None:
            return Outputs(batch.recorded)
        if self.specs:
            raise ValueError(
                f"The methods need a teacher with the taps {', '.join(self.specs)}, but none is attached, because a "
                "Distiller is saved without its teacher. Call distiller.attach(teacher) after loading."
            )
        return Outputs()
