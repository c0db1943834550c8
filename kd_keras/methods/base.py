"""What a method is: a layer that says which taps it wants of student and teacher, and returns a loss."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor, mismatch
from kd_keras.taps import Specs

Weight = float | keras.optimizers.schedules.LearningRateSchedule | Callable[[Step], Tensor]


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
        weight: what the loss is multiplied by: a number, a Keras learning-rate schedule of the update's number, or a
            function of the `Step`.
        name: how the term is logged; by default the class's name in lower case.

    Raises:
        TypeError: where `weight` is none of these.
    """

    taps = Taps()
    across_replicas = False  # whether it is given the global batch: taps and labels of all replicas, one after another

    def __init__(self, *, weight: Weight = 1.0, name: str | None = None):
        super().__init__(name=name or type(self).__name__.lower(), dtype="float32", autocast=False)
        if not callable(weight):
            number(type(self).__name__, "weight", weight)
        self.weight = weight
        self._allow_non_tensor_positional_args = True  # Keras's word for a call of dictionaries of tensors

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
        return {"name": self.name, "weight": serialize_weight(self.weight)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        return cls(**{**config, "weight": deserialize_weight(config["weight"])})


def same_classes(student: TapSpec, teacher: TapSpec) -> None:
    """Raises ValueError where the two sides have different class counts, or a single logit."""
    came = f"student {student.layer!r} {student.shape}, teacher {teacher.layer!r} {teacher.shape}"
    if student.shape[-1] == 1:
        raise ValueError(mismatch("logits of two or more classes", came, "give a binary model two logits"))
    if student.shape[-1] != teacher.shape[-1]:
        remedy = "Teacher(class_order=...) chooses and orders the teacher's classes"
        raise ValueError(mismatch("logits of the same classes", came, remedy))


def weight_at(weight: Weight, step: Step) -> Any:
    """The value of a weight, a number or a schedule, at a step."""
    if isinstance(weight, keras.optimizers.schedules.LearningRateSchedule):
        return weight(step.number)
    return weight(step) if callable(weight) else weight


def serialize_weight(weight: Weight) -> Any:
    return keras.saving.serialize_keras_object(weight) if callable(weight) else weight


def deserialize_weight(config: Any) -> Weight:
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config


def number(method: str, argument: str, value: Any, above: float | None = None) -> float:
    """Checks a hyper-parameter: a finite number, greater than `above` where that is given.

    Raises:
        TypeError: where it is no number.
        ValueError: where it is not finite or too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(mismatch(f"{method}({argument}=...) as a number", f"{value!r} ({type(value).__name__})"))
    if not abs(value) < float("inf") or (above is not None and not value > above):
        wanted = "finite" if above is None else f"greater than {above}"
        raise ValueError(mismatch(f"{method}({argument}=...) {wanted}", repr(value)))
    return float(value)
