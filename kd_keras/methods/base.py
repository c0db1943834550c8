"""What a method is: a layer that says which taps it wants of student and teacher, and returns a loss."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor, mismatch
from kd_keras.taps import Specs

Weight = float | Mapping[int, float] | keras.optimizers.schedules.LearningRateSchedule | Callable[[Step], Tensor]


class Taps(NamedTuple):
    """The taps that a method wants of each side: `"logits"`, `"embedding"`, `"stages"`, `"stages:pre"`,
    `"stages[1]"`, or a layer's path such as `"backbone/conv4_out"`."""

    student: tuple[str, ...] = ("logits",)
    teacher: tuple[str, ...] = ("logits",)


class Method(keras.layers.Layer):
    """Base of all methods.

    A method sets `taps`, may create adapters in `bind`, and returns in `call` a loss of shape `(B,)`, or `()` where it
    couples examples, before its weight. It computes in float32 under any dtype policy. It knows nothing of replicas,
    loss scaling or averaging: the Distiller does these. One that couples examples sees its replica's part of the batch,
    or with `across_replicas` the whole, and then returns `()`.

    Args:
        weight: what the loss is multiplied by: a number, numbers by the epoch from which they hold
            (`{0: 1.0, 30: 0.0}`), a Keras learning-rate schedule of the update's number, or a function of the `Step`.
        name: how the term is logged; by default the class's name in lower case.

    Raises:
        TypeError: where `weight` is none of these.
        ValueError: where a number is not finite, or epochs do not begin with 0.
    """

    family = ""  # of which kind it is, for the list of methods: "logits", "features", "relations", "dense", ...
    taps = Taps()
    across_replicas = False  # whether it is given the global batch: taps and labels of all replicas, one after another
    indexed = False  # whether it needs `batch.index`
    moves_student = True  # whether it teaches the student, and not an adapter of a first stage alone
    beside = 1.0  # the hard loss's weight in the setting that the default weight was published for

    def __init__(self, *, weight: Weight = 1.0, name: str | None = None):
        super().__init__(name=name or type(self).__name__.lower(), dtype="float32", autocast=False)
        self.weight = as_weight(type(self).__name__, "weight", weight)
        self._allow_non_tensor_positional_args = True  # Keras's word for a call of dictionaries of tensors

    def student_from(self, student: keras.Model, teacher: keras.Model | None) -> keras.Model:
        """The student that this method trains, made of the one that was chosen; for most methods that one itself."""
        return student

    def bind(self, student: Specs, teacher: Specs) -> None:
        """Builds what the method owns, once, from what the taps will deliver.

        Raises:
            ValueError: where the taps do not fit the method: both layers, both shapes, the nearest remedy.
        """
        if "logits" in self.taps.student and "logits" in self.taps.teacher:
            same_classes(student["logits"], teacher["logits"])
        self.built = True

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        """The loss `(B,)` or `()` of one batch, float32, before the weight."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Every argument of the constructor, which each method keeps under the argument's name."""
        own = {argument: getattr(self, argument) for argument in inspect.signature(type(self)).parameters}
        return {**own, "weight": serialize_weight(self.weight)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        return cls(**{**config, "weight": deserialize_weight(config["weight"])})


class Tapping(Method):
    """Base of the methods whose taps the user may choose: one or several a side, as many on both.

    Args:
        student_tap: the name of a tap, or several; `"stages"` are as many as there are stages.
        teacher_tap: what they follow, in the same order.
        weight: as for every method.
        name: the term's name in the log.
    """

    def __init__(
        self,
        *,
        student_tap: str | Sequence[str],
        teacher_tap: str | Sequence[str],
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        self.taps = Taps(*(((tap,) if isinstance(tap, str) else tuple(tap)) for tap in (student_tap, teacher_tap)))
        self.student_tap, self.teacher_tap = self.taps

    def pairs(
        self, student: Specs, teacher: Specs, rank: int | None = None, sized: bool = True
    ) -> list[tuple[TapSpec, TapSpec]]:
        """What the taps of both sides will deliver, pair by pair.

        Args:
            student: the student's specifications.
            teacher: the teacher's.
            rank: 4 where they must be maps `(B, H, W, C)`, 2 where they must be vectors `(B, D)`.
            sized: whether maps must be of known size.

        Raises:
            ValueError: where the two sides have different numbers of taps, or one is of another rank or of free size.
        """
        ours, theirs = (_listed(side, taps) for side, taps in zip((student, teacher), self.taps))
        came = f"student {_shown(ours)}; teacher {_shown(theirs)}"
        if len(ours) != len(theirs):
            remedy = "name as many of each: student_tap=(...), teacher_tap=(...), such as the stages of equal size"
            raise ValueError(mismatch(f"as many taps of both for {self.name!r}", came, remedy))
        kind = {4: "maps (B, H, W, C)", 2: "vectors (B, D)"}
        if rank and any(len(spec.shape) != rank for spec in ours + theirs):
            remedy = {4: 'tap stages, such as "stages[1]"', 2: 'tap "embedding" or "logits"'}[rank]
            raise ValueError(mismatch(f"{kind[rank]} for {self.name!r}", came, remedy))
        if rank == 4 and sized and any(None in spec.shape[1:] for spec in ours + theirs):
            remedy = "build both networks with a fixed input_shape"
            raise ValueError(mismatch(f"maps of known size for {self.name!r}", came, remedy))
        return list(zip(ours, theirs))

    def pair(self, student: Specs, teacher: Specs, rank: int | None = None) -> tuple[TapSpec, TapSpec]:
        """As `pairs`, for a method that compares one tap of each side.

        Raises:
            ValueError: also where there are several.
        """
        pairs = self.pairs(student, teacher, rank)
        if len(pairs) != 1:
            raise ValueError(mismatch(f"one tap of each side for {self.name!r}", f"{len(pairs)} of each", "name one"))
        return pairs[0]

    def tensors(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors of the taps of both sides, in the order of `pairs`."""
        return tuple(_listed(side, taps) for side, taps in zip((student, teacher), self.taps))


def _listed(side: Mapping[str, Any], taps: tuple[str, ...]) -> list:
    """What one side has for some taps, one after the other; `"stages"` is a list of its own."""
    return [each for tap in taps for each in (side[tap] if isinstance(side[tap], list) else [side[tap]])]


def _shown(specs: list[TapSpec]) -> str:
    return ", ".join(f"{spec.layer!r} {spec.shape}" for spec in specs)


@keras.saving.register_keras_serializable("kd_keras")
class ByEpoch:
    """A weight by the epoch from which it holds, counted from 0.

    >>> float(ByEpoch({0: 1.0, 30: 0.0})(Step(number=0, epoch=29)))
    1.0
    """

    def __init__(self, values: Mapping[int, float] | Sequence[tuple[int, float]]):
        pairs = dict(values).items()
        self.values = sorted((whole("weight", "epoch", epoch, 0), float(value)) for epoch, value in pairs)
        if not self.values or self.values[0][0] != 0:
            raise ValueError(mismatch("weights by epoch that begin with epoch 0", repr(values), "for instance {0: 1}"))

    def __call__(self, step: Step) -> Tensor:
        changes = zip(self.values, self.values[1:])
        later = (ops.where(step.epoch >= epoch, value - before, 0.0) for (_, before), (epoch, value) in changes)
        return sum(later, ops.convert_to_tensor(self.values[0][1]))

    def get_config(self) -> dict[str, Any]:
        return {"values": self.values}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ByEpoch:
        return cls(config["values"])


def as_weight(owner: str, argument: str, weight: Weight) -> Weight:
    """A weight as it is kept: numbers by epoch become a function of the step; the rest is checked.

    Raises:
        TypeError: where it is no weight.
        ValueError: where a number is not finite, or epochs do not begin with 0.
    """
    if isinstance(weight, Mapping):
        return ByEpoch({epoch: number(owner, f"{argument}[{epoch}]", value) for epoch, value in weight.items()})
    if not callable(weight):
        number(owner, argument, weight)
    return weight


def same_classes(student: TapSpec, teacher: TapSpec) -> None:
    """Raises ValueError where the two sides have different class counts, or a single logit."""
    came = f"student {student.layer!r} {student.shape}, teacher {teacher.layer!r} {teacher.shape}"
    if student.shape[-1] == 1:
        raise ValueError(mismatch("logits of two or more classes", came, "give a binary model two logits"))
    if student.shape[-1] != teacher.shape[-1]:
        remedy = "Teacher(class_order=...) chooses and orders the teacher's classes"
        raise ValueError(mismatch("logits of the same classes", came, remedy))


def right_class(method: str, labels: Tensor, logits: Tensor) -> Tensor:
    """`(B, K)` booleans: which class of the logits `(B, K)` is the right one.

    Args:
        method: who asks, for the error.
        labels: integers `(B,)` or `(B, 1)`, or `(B, K)` of which the largest counts.
        logits: of which only the number of classes counts.

    Raises:
        ValueError: where labels are missing or of another shape.
    """
    classes, shape = logits.shape[-1], tuple(getattr(labels, "shape", ()))
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] not in (1, classes)):
        came = "none" if labels is None else f"{type(labels).__name__} of shape {shape}"
        remedy = "give the data labels; a method without them, such as KD, needs none"
        raise ValueError(mismatch(f"{method}: labels (B,), (B, 1) or (B, {classes})", came, remedy))
    if len(shape) == 2 and shape[1] == classes:
        labels = ops.argmax(labels, axis=-1)
    return ops.equal(ops.reshape(ops.cast(labels, "int32"), (-1, 1)), ops.arange(classes, dtype="int32"))


def classes_of(label: Any) -> Tensor | None:
    """`(B,)` int32 classes of integer or one-hot labels; `None` for none and for labels of another kind."""
    if label is None or tree.is_nested(label) or len(label.shape) > 2:
        return None
    one_hot = len(label.shape) == 2 and label.shape[-1] != 1
    return ops.cast(ops.argmax(label, axis=-1) if one_hot else ops.reshape(label, (-1,)), "int32")


def mean_over(loss: Tensor, batch: Batch) -> Tensor:
    """The mean `()` of a loss `(B,)`, its examples weighted, for a method that is given the global batch."""
    return ops.mean(loss if batch.weight is None else loss * ops.reshape(ops.cast(batch.weight, "float32"), (-1,)))


def weight_at(weight: Weight, step: Step) -> Any:
    """The value of a weight, a number or a schedule, at a step."""
    if isinstance(weight, keras.optimizers.schedules.LearningRateSchedule):
        return weight(step.number)
    return weight(step) if callable(weight) else weight


def serialize_weight(weight: Weight) -> Any:
    return keras.saving.serialize_keras_object(weight) if callable(weight) else weight


def deserialize_weight(config: Any) -> Weight:
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config


def ramp(step: Step, epochs: float) -> Tensor | float:
    """How much of a warm-up is done: min((epoch + 1) / epochs, 1) with `epoch` from 0, or 1 where there is none.

    >>> float(ramp(Step(number=0, epoch=4), 20))
    0.25
    """
    return ops.minimum((ops.cast(step.epoch, "float32") + 1.0) / epochs, 1.0) if epochs else 1.0


def number(
    method: str, argument: str, value: Any, above: float | None = None, least: float | None = None
) -> float:
    """Checks a hyper-parameter: a finite number, greater than `above` or at least `least` where these are given.

    Raises:
        TypeError: where it is no number.
        ValueError: where it is not finite or too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(mismatch(f"{method}({argument}=...) as a number", f"{value!r} ({type(value).__name__})"))
    for holds, wanted in (
        (abs(value) < float("inf"), "finite"),
        (above is None or value > above, f"greater than {above}"),
        (least is None or value >= least, f"of {least} or more"),
    ):
        if not holds:
            raise ValueError(mismatch(f"{method}({argument}=...) {wanted}", repr(value)))
    return float(value)


def whole(method: str, argument: str, value: Any, least: int = 1) -> int:
    """Checks a hyper-parameter: a whole number of at least `least`.

    Raises:
        TypeError: where it is no number.
        ValueError: where it is not whole or too small.
    """
    if number(method, argument, value) != int(value) or value < least:
        raise ValueError(mismatch(f"{method}({argument}=...) as a whole number of at least {least}", repr(value)))
    return int(value)
