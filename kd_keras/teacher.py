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
from kd_keras.errors import suggest
from kd_keras.networks.taps import Specs, Tapped
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
        networks: a built Keras model, or several.
        weights: the weight of each of several networks, 0 or more, normalized to sum to 1; equal by default.
        combine: "probabilities", the logarithm of the weighted mean of the softmax at temperature 1, or "logits",
            their weighted mean.
        preprocess: from the student's images to this teacher's, `(B, H, W, C) -> (B, H', W', C')`, such as to another
            range of pixel values; one function, or one for each network.
        class_order: for each class of the student its position among the teacher's classes, `K` integers; by default
            the order is the same.

    Raises:
        TypeError: if a network is not a Keras model.
        ValueError: if there is no network, the weights do not fit, `combine` is unknown or a position is negative.

    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> teacher = Teacher([network, network], combine="logits").tapped(["logits"])
    >>> teacher.specs["logits"].shape
    (None, 3)
    >>> teacher(ops.ones((2, 4)))["logits"].shape[0]
    2
    """

    def __init__(
        self,
        networks: keras.Model | Sequence[keras.Model],
        *,
        weights: Sequence[float] | None = None,
        combine: str = "probabilities",
        preprocess: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]] | None = None,
        class_order: Sequence[int] | None = None,
    ):
        self.networks = [networks] if isinstance(networks, keras.Model) else list(networks)
        if not self.networks:
            raise ValueError("A Teacher needs at least one network, but received none.")
        for network in self.networks:
            if not isinstance(network, keras.Model):
                raise TypeError(f"A teacher must be a Keras model, but received {type(network).__name__}.")
        if combine not in COMBINATIONS:
            advice = suggest(combine, COMBINATIONS)
            raise ValueError(f"combine must be one of {COMBINATIONS}, but received {combine!r}: {advice}")
        if class_order is not None and min(class_order, default=-1) < 0:
            raise ValueError(
                f"class_order must be positions among the teacher's classes, but received {class_order!r}."
            )
        self.combine = combine
        self.weights = _normalize_weights(weights, len(self.networks))
        self.preprocess = _for_each_network(preprocess, len(self.networks))
        self.class_order = None if class_order is None else [int(position) for position in class_order]
        self.specs = Specs({})
        self._tapped: list[Tapped] = []

    @staticmethod
    def recorded(directory: str | os.PathLike, live: Teacher | None = None) -> RecordedTeacher:
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

    def tapped(self, wanted: Iterable[str]) -> Teacher:
        """A copy of the teacher that delivers the wanted taps; its `specs` say which shapes they have.

        Raises:
            ValueError: if a network lacks a tap, several networks are to deliver another tap than logits, their class
                counts differ, or `class_order` names a class that does not exist.
        """
        wanted = list(dict.fromkeys(wanted))
        others = [tap for tap in wanted if tap != "logits"]
        if others and len(self.networks) > 1:
            raise ValueError(
                f"A method that needs the taps {others} needs one teacher, but received {len(self.networks)}: only the "
                "logits of several teachers are combined."
            )
        teacher = copy.copy(self)
        teacher._tapped = [Tapped(network, wanted, output=False) for network in self.networks]
        teacher.specs = teacher._tapped[0].specs.reordered(self.class_order)
        if "logits" in teacher.specs:
            teacher.specs["logits"] = teacher._logits_spec()
        return teacher

    def _logits_spec(self) -> TapSpec:
        specs = [tapped.specs["logits"] for tapped in self._tapped]
        first, shapes = specs[0], [spec.shape for spec in specs]
        if len({shape[-1] for shape in shapes}) > 1:
            raise ValueError(f"Several teachers need one class count, but their logits have the shapes {shapes}.")
        if self.class_order is None:
            return first
        classes = first.shape[-1]
        if max(self.class_order) >= classes:
            raise ValueError(
                f"class_order must be positions below {classes}, the teacher's class count, but received "
                f"{max(self.class_order)}."
            )
        return TapSpec(first.layer, (*first.shape[:-1], len(self.class_order)))

    def check_inputs(self, student_shape: tuple) -> None:
        """Checks that every network without `preprocess` reads the same kind of images as the student.

        Args:
            student_shape: the student's input shape with the batch dimension, such as `(None, H, W, C)`.

        Raises:
            ValueError: if the ranks or the channels differ.
        """
        for network, preprocess in zip(self.networks, self.preprocess, strict=True):
            shape = _input_shape(network)
            if preprocess or shape is None or len(shape) == len(student_shape) == 2 and shape[1] == student_shape[1]:
                continue
            if len(shape) != len(student_shape) or shape[-1] != student_shape[-1]:
                raise ValueError(
                    f"Teacher and student must read the same kind of image, but teacher {network.name!r} reads {shape} "
                    f"and the student reads {student_shape}. Pass Teacher(preprocess=...) with a function from the "
                    "student's images to the teacher's."
                )

    def supports_jit(self, student_shape: tuple | None) -> bool:
        """Whether XLA can compile it: XLA lacks the resize for a network that reads smaller images than the student."""
        return not any(
            _shrinks(_input_shape(network), student_shape)
            or not all(layer.supports_jit for layer in sub_layers(network))
            for network in self.networks
        )

    def outputs(self, batch: Batch) -> Outputs:
        """The taps for one batch: those that come with it, recorded, or those of one inference pass."""
        if batch.recorded is not None:
            return Outputs(batch.recorded)
        return self(batch.inputs) if self.specs else Outputs()

    def __call__(self, inputs: Any) -> Outputs:
        """The taps of `tapped`, in inference, without gradient; with `members` if there are several networks."""
        members = [self._run(*member, inputs) for member in zip(self._tapped, self.preprocess, strict=True)]
        if len(members) == 1:
            return members[0]
        return Outputs({"logits": self._combined([outputs["logits"] for outputs in members])}, members=members)

    def _run(self, tapped: Tapped, preprocess: Callable | None, inputs: Any) -> Outputs:
        _, outputs = tapped(prepared(tapped.model, preprocess, inputs), training=False)
        if self.class_order is not None and "logits" in outputs:
            outputs["logits"] = ops.take(outputs["logits"], self.class_order, axis=-1)
        return Outputs(keras.tree.map_structure(ops.stop_gradient, dict(outputs)))

    def _combined(self, logits: list[Tensor]) -> Tensor:
        stacked = ops.stack([ops.cast(tensor, "float32") for tensor in logits])
        weights = ops.reshape(ops.convert_to_tensor(self.weights, "float32"), (-1, *[1] * len(logits[0].shape)))
        if self.combine == "logits":
            return ops.sum(weights * stacked, axis=0)
        return ops.logsumexp(ops.log_softmax(stacked, axis=-1) + ops.log(weights), axis=0)


def prepared(network: keras.Model, preprocess: Callable[[Tensor], Tensor] | None, inputs: Any) -> Any:
    """Prepares images for one of a teacher's networks: applies its `preprocess`, and resizes to its input size."""
    inputs, shape = preprocess(inputs) if preprocess else inputs, _input_shape(network)
    if shape is None or len(shape) != 4 or None in shape[1:3] or tuple(inputs.shape[1:3]) == shape[1:3]:
        return inputs
    is_smaller = any(size > target for size, target in zip(inputs.shape[1:3], shape[1:3], strict=True))
    return ops.image.resize(inputs, shape[1:3], interpolation="bilinear", antialias=is_smaller)


def _normalize_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count or not all(isinstance(w, numbers.Real) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise ValueError(
            f"A Teacher needs {count} weights, none below zero and not all zero, but received {weights!r}."
        )
    return [float(weight) / sum(weights) for weight in weights]


def _for_each_network(preprocess: Any, count: int) -> list[Callable | None]:
    if preprocess is None or callable(preprocess):
        return [preprocess] * count
    if len(preprocess) != count:
        raise ValueError(f"preprocess must be one function or {count}, but received {len(preprocess)}.")
    return list(preprocess)


def _input_shape(network: keras.Model) -> tuple | None:
    """The shape of a network's only input, or `None` if it has several or does not say."""
    shape = getattr(network, "input_shape", None)
    return shape if isinstance(shape, tuple) and not isinstance(shape[0], tuple) else None


def _shrinks(shape: tuple | None, student_shape: tuple | None) -> bool:
    """Whether a network of this input shape reads smaller images than the student."""
    if shape is None or student_shape is None or not len(shape) == len(student_shape) == 4:
        return False
    return any(size and size < (other or 0) for size, other in zip(shape[1:3], student_shape[1:3], strict=True))


class AbsentTeacher:
    """Takes the place of the teacher in a Distiller that was loaded from a file: it only knows what the taps deliver.

    Args:
        specs: by the tap's name, as `Teacher.specs`.
    """

    def __init__(self, specs: Mapping[str, TapSpec | list[TapSpec]]):
        self.specs = specs if isinstance(specs, Specs) else Specs(specs)

    def tapped(self, wanted: Iterable[str]) -> AbsentTeacher:
        """The same object: the wanted taps existed when the Distiller was saved."""
        return self

    def supports_jit(self, student_shape: tuple | None) -> bool:
        """Always true, since no network runs."""
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
                f"The methods need a teacher with the taps {', '.join(self.specs)}, but none is attached: a Distiller "
                "is saved without its teacher. Call distiller.attach(teacher) after loading."
            )
        return Outputs()

    def get_config(self) -> dict[str, list]:
        specs = self.specs.items()
        return {tap: [list(s) for s in spec] if isinstance(spec, list) else list(spec) for tap, spec in specs}

    @classmethod
    def from_config(cls, config: dict[str, list]) -> AbsentTeacher:
        def spec(entry: list) -> Any:
            return TapSpec(entry[0], tuple(entry[1])) if isinstance(entry[0], str) else [spec(part) for part in entry]

        return cls({tap: spec(entry) for tap, entry in config.items()})
