"""The teacher: one trained network or several, frozen, run outside the tape and unknown to Keras's tracking."""

from __future__ import annotations

import copy
import numbers
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import ops

from kd_keras.contracts import Outputs, TapSpec, Tensor
from kd_keras.errors import explain_mismatch, suggest
from kd_keras.networks.taps import Specs, Tapped
from kd_keras.recording.identity import teacher_identity
from kd_keras.recording.reader import Recording
from kd_keras.recording.teacher import RecordedTeacher

COMBINATIONS = ("probabilities", "logits")


class Teacher:
    """One network or several whose outputs a student follows.

    A plain object: Keras neither tracks nor trains nor saves it with the student. It always runs in inference form, and
    its variables are left as they are. Images come as the student sees them, are changed by `preprocess` where that is
    given, and are resized where a network has a fixed input size of its own.

    Args:
        networks: a built Keras model, or several.
        weights: how much each of several counts, 0 or more, normalised to sum to 1; equal by default.
        combine: `"probabilities"`, the logarithm of the weighted mean of the softmax at temperature 1, or `"logits"`,
            their weighted mean.
        preprocess: from the student's images to this teacher's, `(B, H, W, C) -> (B, H', W', C')`, such as another
            normalisation; one function, or one for each network.
        class_order: for each class of the student its position among the teacher's classes, `K` integers; by default
            the order is the same.

    Raises:
        TypeError: where a network is no Keras model.
        ValueError: for no network, weights that do not fit, an unknown combination or positions below zero.

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
            raise ValueError(explain_mismatch("at least one network", "none"))
        for network in self.networks:
            if not isinstance(network, keras.Model):
                raise TypeError(explain_mismatch("a Keras model as teacher", type(network).__name__))
        if combine not in COMBINATIONS:
            raise ValueError(explain_mismatch(f"combine= one of {COMBINATIONS}", repr(combine), suggest(combine, COMBINATIONS)))
        if class_order is not None and min(class_order, default=-1) < 0:
            raise ValueError(explain_mismatch("class_order= positions among the teacher's classes", repr(class_order)))
        self.combine = combine
        self.weights = _normalize_weights(weights, len(self.networks))
        self.preprocess = _one_for_each(preprocess, len(self.networks))
        self.class_order = None if class_order is None else [int(position) for position in class_order]
        self.specs = Specs({})
        self._tapped: list[Tapped] = []

    @staticmethod
    def recorded(directory: str | os.PathLike, live: Teacher | None = None) -> RecordedTeacher:
        """A teacher whose outputs were recorded; its networks need not be there.

        Give its `recording` to the pipeline, `data.training(..., recorded=teacher.recording)`, and itself to a
        Distiller.

        Args:
            directory: of the recording.
            live: the same teacher, to hold its weights against those that were recorded.

        Raises:
            ValueError: where the recording is incomplete or damaged, or of another teacher than `live`.
        """
        recording = Recording(directory)
        if live is not None:
            recording.check("teacher", teacher_identity(live))
        return RecordedTeacher(recording)

    def tapped(self, wanted: Iterable[str]) -> Teacher:
        """The same teacher, ready to give the wanted taps; its `specs` say what they deliver.

        Raises:
            ValueError: where a network lacks a tap, several networks are asked for another tap than logits, their
                class counts differ, or `class_order` names a class that there is not.
        """
        wanted = list(dict.fromkeys(wanted))
        others = [tap for tap in wanted if tap != "logits"]
        if others and len(self.networks) > 1:
            raise ValueError(explain_mismatch("one teacher for taps other than logits", f"{len(self.networks)} for {others}"))
        ready = copy.copy(self)
        ready._tapped = [Tapped(network, wanted, output=False) for network in self.networks]
        ready.specs = ready._tapped[0].specs.reordered(self.class_order)
        if "logits" in ready.specs:
            ready.specs["logits"] = ready._logits_spec()
        return ready

    def _logits_spec(self) -> TapSpec:
        each = [tapped.specs["logits"] for tapped in self._tapped]
        classes = {spec.shape[-1] for spec in each}
        if len(classes) > 1:
            raise ValueError(explain_mismatch("teachers of one class count", f"{[spec.shape for spec in each]}"))
        if self.class_order is None:
            return each[0]
        if max(self.class_order) >= each[0].shape[-1]:
            raise ValueError(
                explain_mismatch(f"class_order= positions below {each[0].shape[-1]}", f"{max(self.class_order)}")
            )
        return TapSpec(each[0].layer, (*each[0].shape[:-1], len(self.class_order)))

    def check_inputs(self, student_shape: tuple) -> None:
        """Checks that the student's images suit every network that has no `preprocess`.

        Raises:
            ValueError: where the ranks or the channels differ.
        """
        for network, preprocess in zip(self.networks, self.preprocess):
            own = _input_shape(network)
            if preprocess or own is None or len(own) == len(student_shape) == 2 and own[1] == student_shape[1]:
                continue
            if len(own) != len(student_shape) or own[-1] != student_shape[-1]:
                remedy = "give Teacher(preprocess=...) a function from the student's images to the teacher's"
                came = f"teacher {network.name!r} reads {own}, the student reads {student_shape}"
                raise ValueError(explain_mismatch("teacher and student that read the same kind of image", came, remedy))

    def supports_jit(self, student_shape: tuple | None) -> bool:
        """Whether XLA can compile it: a network that reads smaller images than the student needs a resize it lacks."""
        shapes = [_input_shape(network) for network in self.networks]
        maps = [shape for shape in shapes if shape and student_shape and len(shape) == len(student_shape) == 4]
        shrinks = any((own or 0) < (size or 0) for s in maps for own, size in zip(s[1:3], student_shape[1:3]) if own)
        return not shrinks and all(layer.supports_jit for n in self.networks for layer in n._flatten_layers())

    def __call__(self, inputs: Any) -> Outputs:
        """The taps of `tapped`, in inference form, without gradient; with `members` where there are several."""
        each = [self._run(*member, inputs) for member in zip(self._tapped, self.preprocess)]
        if len(each) == 1:
            return each[0]
        return Outputs({"logits": self._combined([outputs["logits"] for outputs in each])}, members=each)

    def _run(self, tapped: Tapped, preprocess: Callable | None, inputs: Any) -> Outputs:
        _, outputs = tapped(prepared(tapped.model, preprocess, inputs), training=False)
        if self.class_order is not None and "logits" in outputs:
            outputs["logits"] = ops.take(outputs["logits"], self.class_order, axis=-1)
        return Outputs(keras.tree.map_structure(ops.stop_gradient, dict(outputs)))

    def _combined(self, logits: list[Tensor]) -> Tensor:
        stacked = ops.stack([ops.cast(each, "float32") for each in logits])
        weights = ops.reshape(ops.convert_to_tensor(self.weights, "float32"), (-1, *[1] * len(logits[0].shape)))
        if self.combine == "logits":
            return ops.sum(weights * stacked, axis=0)
        return ops.logsumexp(ops.log_softmax(stacked, axis=-1) + ops.log(weights), axis=0)


def prepared(network: keras.Model, preprocess: Callable[[Tensor], Tensor] | None, inputs: Any) -> Any:
    """Images as one of a teacher's networks reads them: changed by its `preprocess`, and resized to its input size."""
    inputs = preprocess(inputs) if preprocess else inputs
    return _resized(inputs, _input_shape(network))


def _normalize_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count or not all(isinstance(w, numbers.Real) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise ValueError(explain_mismatch(f"{count} weights, none below zero and not all zero", repr(weights)))
    return [float(weight) / sum(weights) for weight in weights]


def _one_for_each(preprocess: Any, count: int) -> list[Callable | None]:
    if preprocess is None or callable(preprocess):
        return [preprocess] * count
    if len(preprocess) != count:
        raise ValueError(explain_mismatch(f"one preprocess= or {count}", str(len(preprocess))))
    return list(preprocess)


def _input_shape(network: keras.Model) -> tuple | None:
    """The shape of a network's one input, or `None` where it has several or does not say."""
    shape = getattr(network, "input_shape", None)
    return shape if isinstance(shape, tuple) and not isinstance(shape[0], tuple) else None


def _resized(inputs: Any, shape: tuple | None) -> Any:
    if shape is None or len(shape) != 4 or None in shape[1:3] or tuple(inputs.shape[1:3]) == shape[1:3]:
        return inputs
    smaller = any(size > target for size, target in zip(inputs.shape[1:3], shape[1:3]))
    return ops.image.resize(inputs, shape[1:3], interpolation="bilinear", antialias=smaller)


class AbsentTeacher:
    """What stands in for the teacher of a Distiller loaded from a file: it knows what the taps deliver, and no more."""

    def __init__(self, specs: dict[str, TapSpec | list[TapSpec]]):
        self.specs = specs if isinstance(specs, Specs) else Specs(specs)

    def tapped(self, wanted: Iterable[str]) -> AbsentTeacher:
        """Itself: what is wanted was there when it was saved."""
        return self

    def supports_jit(self, student_shape: tuple | None) -> bool:
        """Always: nothing of it runs."""
        return True

    def get_config(self) -> dict[str, list]:
        specs = self.specs.items()
        return {tap: [list(s) for s in spec] if isinstance(spec, list) else list(spec) for tap, spec in specs}

    @classmethod
    def from_config(cls, config: dict[str, list]) -> AbsentTeacher:
        def spec(entry: list) -> Any:
            return TapSpec(entry[0], tuple(entry[1])) if isinstance(entry[0], str) else [spec(each) for each in entry]

        return cls({tap: spec(entry) for tap, entry in config.items()})

    def __call__(self, inputs: Any) -> Outputs:
        remedy = "distiller.attach(teacher) after loading; a Distiller is saved without its teacher"
        raise ValueError(explain_mismatch("a teacher", "none attached", remedy))
