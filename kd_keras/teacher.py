"""The teacher: one trained network or several, frozen and not tracked by Keras."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from kd_keras.contracts import Batch, Outputs, TapSpec, Tensor
from kd_keras.ensembles import (
    COMBINATIONS,
    CROSS_ENTROPY,
    EnsembleWeights,
    NumberedConstants,
    check_classes,
    combine_logits,
    cross_entropy_weights,
    divide_taps,
    normalize_weights,
    stack_weights,
)
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


class Teacher:
    """One network or several whose outputs a student follows.

    A plain object: Keras neither tracks nor trains nor saves it with the student. It always runs in inference, and its
    variables never change. It receives the images that the student receives, float32 from 0 to 255, applies
    `preprocess` to them, and resizes them if a network has a fixed input size of its own.

    Args:
        networks: a built Keras model, or several. A built layer, a `keras.layers.TFSMLayer`, what
            `tf.saved_model.load` returns and a model of tf_keras are accepted too; they have only logits. For a Python
            function, `Teacher(function)` is a `FunctionTeacher`, as `functions.python_teacher` makes it, to record.
        weights: the weight of each of several networks, 0 or more, normalized to sum to 1; equal by default. A list of
            K numbers for each network are the weights of the classes, normalized for each class. "cross_entropy" gives
            each network a weight for each training example, `ensembles.cross_entropy_weights`; it needs labels, and
            for predictions without labels, as in an evaluation, the weights are equal.
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
        """A `FunctionTeacher` for a function, which is not part of a graph; else an empty `Teacher`."""
        return python_teacher(networks, **options) if is_plain_function(networks) else super().__new__(cls)

    def __init__(
        self,
        networks: keras.Model | Sequence[keras.Model],
        *,
        weights: EnsembleWeights | None = None,
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
        self.weights = normalize_weights(weights, len(self.networks))
        self.preprocess = _for_each_network(preprocess, len(self.networks))
        self.class_order = None if class_order is None else [int(position) for position in class_order]
        self.specs = Specs({})
        self._tapped: list[Tapped | None] = []
        self._numbered: dict[str, tuple[int, str]] = {}

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

        Several networks share only the tap "logits", which are combined. "1:embedding" is the embedding of network 1,
        counted from 0, and "1:logits" are its own logits. A network without a wanted tap does not run.

        Raises:
            ValueError: if a network lacks a tap, a tap other than logits is wanted of several networks without a
                number, the networks differ in their number of classes, the weights of classes have another number of
                them, or `class_order` contains a class that does not exist.
        """
        shared, numbered = divide_taps(list(dict.fromkeys(wanted)), len(self.networks))
        teacher = copy.copy(self)
        teacher._numbered = numbered
        own = [[name for number, name in numbered.values() if number == n] for n in range(len(self.networks))]
        teacher._tapped = [
            Tapped(network, [*shared, *taps], output=False) if shared or taps else None
            for network, taps in zip(self.networks, own, strict=True)
        ]
        teacher.specs = teacher._join_specs(shared)
        return teacher

    def _join_specs(self, shared: list[str]) -> Specs:
        """The specifications of the taps of all networks and of the numbered ones."""
        every = [Specs({}) if tapped is None else tapped.specs for tapped in self._tapped]
        if not self._numbered and len(every) == 1:
            joined = every[0].reordered(self.class_order)
        else:
            numbered = {tap: self._ordered(every[number][name], name) for tap, (number, name) in self._numbered.items()}
            joined = Specs({**{tap: every[0][tap] for tap in shared}, **numbered}, NumberedConstants(every))
        for tap in [tap for tap in joined if is_logits(tap) and tap != "logits"]:
            joined[tap] = self._ordered(joined[tap], tap)
        if "logits" in joined:
            joined["logits"] = self._logits_spec([specs["logits"] for specs in every])
        return joined

    @property
    def head_specs(self) -> list[TapSpec]:
        """The specifications of the logits of each network, if they are wanted."""
        return [tapped.specs["logits"] for tapped in self._tapped if tapped] if "logits" in self.specs else []

    def _logits_spec(self, specs: list[TapSpec]) -> TapSpec:
        shapes = [spec.shape for spec in specs]
        if len({shape[-1] for shape in shapes}) > 1:
            raise ValueError(f"Several teachers must have one class count, but their logits have the shapes {shapes}.")
        if {"softmax", "sigmoid"} <= {spec.activation for spec in specs}:
            heads = [spec.activation for spec in specs]
            raise ValueError(f"Several teachers must all end in a softmax or all in a sigmoid, but received {heads}.")
        ordered = self._ordered(next((spec for spec in specs if spec.activation == "sigmoid"), specs[0]), "logits")
        check_classes(self.weights, ordered.shape[-1], any(spec.activation == "sigmoid" for spec in specs))
        return ordered

    def _ordered(self, spec: Any, tap: str) -> Any:
        """The specification of a tap in the order of the student's classes."""
        if not is_logits(tap) or self.class_order is None:
            return spec
        is_unit = spec.shape[-1] == 1
        classes, activation = (2, "softmax" if spec.activation else "") if is_unit else (spec.shape[-1], spec[2])
        if max(self.class_order) >= classes:
            raise ValueError(
                f"Teacher(class_order=...) must be positions below {classes}, the teacher's class count, but received "
                f"{max(self.class_order)}."
            )
        return TapSpec(spec.layer, (*spec.shape[:-1], len(self.class_order)), activation)

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
        return self._join(self._run_all(batch.inputs), batch.label) if self.specs else Outputs()

    def __call__(self, inputs: Any) -> Outputs:
        """The wanted taps for images, from inference passes without gradient; several networks also give `members`.

        With weights by the cross entropy, which needs labels, the networks have equal weights.
        """
        members = self._run_all(inputs)
        equal = normalize_weights(None, len(members)) if self.weights == CROSS_ENTROPY else self.weights
        return self._join(members, None, equal)

    def _run_all(self, inputs: Any) -> list[Outputs]:
        """The outputs of each network; of one without a wanted tap, nothing."""
        pairs = zip(self._tapped, self.preprocess, strict=True)
        return [Outputs() if tapped is None else self._run(tapped, preprocess, inputs) for tapped, preprocess in pairs]

    def _join(self, members: list[Outputs], label: Any, weights: Any = None) -> Outputs:
        """The outputs of all networks under the names of the wanted taps."""
        numbered = {tap: members[number][name] for tap, (number, name) in self._numbered.items()}
        if len(members) == 1:
            return Outputs({**members[0], **numbered})
        if "logits" not in self.specs:
            return Outputs(numbered, members=members)
        logits = [outputs["logits"] for outputs in members]
        weights = self.weights if weights is None else weights
        by_label = weights == CROSS_ENTROPY
        table = cross_entropy_weights(logits, label) if by_label else stack_weights(weights, len(logits[0].shape))
        is_binary = self.specs["logits"].activation == "sigmoid" or logits[0].shape[-1] == 1
        return Outputs({"logits": combine_logits(logits, table, self.combine, is_binary), **numbered}, members=members)

    def _run(self, tapped: Tapped, preprocess: Callable | None, inputs: Any) -> Outputs:
        _, outputs = tapped(prepare_images(tapped.model, preprocess, inputs), training=False)
        for tap in [] if self.class_order is None else filter(is_logits, [*outputs]):
            logits = as_two_classes(outputs[tap]) if outputs[tap].shape[-1] == 1 else outputs[tap]
            outputs[tap] = ops.take(logits, self.class_order, axis=-1)
        return Outputs(keras.tree.map_structure(ops.stop_gradient, dict(outputs)))


def is_logits(tap: str) -> bool:
    """Whether a tap of a network is its logits, or those of a named head, such as "logits:aux"."""
    return tap == "logits" or tap.startswith("logits:")


def prepare_images(network: keras.Model, preprocess: Callable[[Tensor], Tensor] | None, images: Any) -> Any:
    """Prepares images for one of a teacher's networks: applies its `preprocess`, and resizes to its input size.

    Images of integers become float32 for `preprocess`: of 8 bits, they would wrap around in its arithmetic.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> prepare_images(network, lambda images: images / 255.0, ops.zeros((2, 4, 4, 3))).shape
    TensorShape([2, 8, 8, 3])
    """
    if preprocess:
        images = preprocess(keras.tree.map_structure(_as_floats, images))
    return resize_to_input(network, select_inputs(network, images))


def _as_floats(values: Any) -> Any:
    return ops.cast(values, "float32") if "int" in keras.backend.standardize_dtype(values.dtype) else values


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
