"""The weight of a loss: a number, numbers by epoch, or a schedule; and the warm-up of a loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from kd_keras.contracts import Step, Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch, shorten

Weight: TypeAlias = (
    float | Mapping[int, float] | keras.optimizers.schedules.LearningRateSchedule | Callable[[Step], Tensor]
)


@keras.saving.register_keras_serializable("kd_keras")
class ByEpoch:
    """A weight that changes at given epochs, counted from 0.

    Args:
        values: weights by the first epoch in which they apply; epoch 0 must be among them.

    Raises:
        ValueError: if epoch 0 is missing, or if an epoch is not a whole number.

    >>> weight = ByEpoch({0: 1.0, 30: 0.0})
    >>> float(weight(Step(number=0, epoch=29))), float(weight(Step(number=0, epoch=30)))
    (1.0, 0.0)
    """

    def __init__(self, values: Mapping[int, float] | Sequence[tuple[int, float]]):
        pairs = dict(values).items()
        self.values = sorted((check_whole_number("weight", "epoch", epoch, 0), float(value)) for epoch, value in pairs)
        if not self.values or self.values[0][0] != 0:
            raise ValueError(
                explain_mismatch("weights by epoch that start at epoch 0", shorten(values), "write {0: 1.0, ...}")
            )

    def __call__(self, step: Step) -> Tensor:
        changes = itertools.pairwise(self.values)
        steps = (ops.where(step.epoch >= epoch, value - before, 0.0) for (_, before), (epoch, value) in changes)
        return sum(steps, ops.convert_to_tensor(self.values[0][1]))

    def get_config(self) -> dict[str, Any]:
        return {"values": self.values}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ByEpoch:
        return cls(config["values"])


def as_weight(owner: str, argument: str, weight: Weight) -> Weight:
    """Checks a weight; numbers by epoch become a `ByEpoch`, and everything else is returned unchanged.

    Args:
        owner: the class whose argument it is, for the error message.
        argument: the name of the argument.
        weight: a number, numbers by epoch, a Keras learning-rate schedule, or a function of the `Step`.

    Raises:
        TypeError: if it is not one of these.
        ValueError: if a number is negative or not finite, or if the epochs do not start at 0.
    """
    if isinstance(weight, Mapping):
        return ByEpoch(
            {epoch: check_number(owner, f"{argument}[{epoch}]", value, least=0) for epoch, value in weight.items()}
        )
    if not callable(weight):
        check_number(owner, argument, weight, least=0)
    return weight


def weight_at(weight: Weight, step: Step) -> Any:
    """The value of a weight, a number or a schedule, at a step."""
    if isinstance(weight, keras.optimizers.schedules.LearningRateSchedule):
        return weight(step.number)
    return weight(step) if callable(weight) else weight


def serialize_weight(weight: Weight) -> Any:
    """A weight as a configuration that can be written as JSON."""
    return keras.saving.serialize_keras_object(weight) if callable(weight) else weight


def deserialize_weight(config: Any) -> Weight:
    """The weight from its configuration."""
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config


def ramp(step: Step, epochs: float) -> Tensor | float:
    """The factor of a linear warm-up, min((epoch + 1) / epochs, 1) with `epoch` from 0; 1 if `epochs` is 0.

    >>> float(ramp(Step(number=0, epoch=4), 20))
    0.25
    """
    return ops.minimum((ops.cast(step.epoch, "float32") + 1.0) / epochs, 1.0) if epochs else 1.0
