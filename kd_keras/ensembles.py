"""Several networks as one teacher: the weights of the networks, and their combined logits."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.errors import check_choice, explain_mismatch, shorten
from kd_keras.methods.labels import class_indices
from kd_keras.networks.specs import Specs
from kd_keras.networks.taps import split_number

COMBINATIONS = ("probabilities", "logits")
CROSS_ENTROPY = "cross_entropy"
EnsembleWeights: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | str


def normalize_weights(weights: EnsembleWeights | None, count: int) -> list[float] | list[list[float]] | str:
    """The weights of several networks, of which those of all networks, or of each class, sum to 1.

    Args:
        weights: a number for each network, the same number of numbers for each network (one for each class), or
            "cross_entropy", which is returned; `None` for equal weights.
        count: M, the number of networks.

    Raises:
        TypeError: if it is a single number.
        ValueError: if the weights do not fit the number of networks, one is below zero or not finite, or all of the
            networks or of a class are zero.

    >>> normalize_weights([3, 1], 2), normalize_weights([[1, 0], [1, 2]], 2)
    ([0.75, 0.25], [[0.5, 0.0], [0.5, 1.0]])
    """
    if isinstance(weights, str):
        check_choice("Teacher", "weights", weights, (CROSS_ENTROPY,))
        if count == 1:
            raise ValueError(f"Teacher(weights={weights!r}) needs several networks, but received one.")
        return weights
    if isinstance(weights, numbers.Real):
        raise TypeError(f"Teacher(weights=...) must be {count} weights in a list, but received {shorten(weights)}.")
    rows: list[Any] = [1.0] * count if weights is None else list(weights)
    is_by_class = bool(rows) and all(isinstance(row, (list, tuple, np.ndarray)) for row in rows)
    columns = [list(row) for row in rows] if is_by_class else [[row] for row in rows]
    values: list[Any] = [value for row in columns for value in row]
    is_table = len(rows) == count and len({len(row) for row in columns}) == 1 and values
    if not is_table or not all(isinstance(value, numbers.Real) and 0 <= float(value) < np.inf for value in values):
        raise ValueError(
            f"Teacher(weights=...) must be {count} weights, or {count} lists with a weight for each class, none below "
            f"zero and not all zero, but received {shorten(weights)}."
        )
    table = np.array(columns, "float64")
    if not table.sum(axis=0).all():
        raise ValueError(
            f"Teacher(weights=...) must be {count} weights, not all zero{' for any class' * is_by_class}, but received "
            f"{shorten(weights)}."
        )
    shares = table / table.sum(axis=0)
    return shares.tolist() if is_by_class else shares[:, 0].tolist()


def check_classes(weights: list | str, units: int, is_binary: bool) -> None:
    """Checks weights of classes, or by the cross entropy, against the logits of the networks.

    Raises:
        ValueError: if there is not a weight for each class, or if the cross entropy is that of sigmoid units.
    """
    if weights == CROSS_ENTROPY and (is_binary or units == 1):
        raise ValueError(
            f"Teacher(weights={CROSS_ENTROPY!r}) needs networks with one softmax over two or more classes, but received"
            f" {units} units with a sigmoid each. Pass a weight for each network."
        )
    if isinstance(weights[0], list) and len(weights[0]) != units:
        raise ValueError(
            f"Teacher(weights=...) must have a weight for each of {units} classes, but received {len(weights[0])} for "
            "each network."
        )


def stack_weights(weights: list, rank: int) -> Tensor:
    """Normalized weights as a tensor `(M, 1, ..., 1)` or, of classes, `(M, 1, ..., K)`, for stacked logits.

    Args:
        weights: as `normalize_weights` returns them, but not "cross_entropy".
        rank: of the logits of one network.
    """
    table = ops.convert_to_tensor(weights, "float32")
    return ops.reshape(table, (len(weights), *[1] * (rank - 1), -1))


def cross_entropy_weights(logits: Sequence[Tensor], label: Any) -> Tensor:
    """The weight of each of M teachers for each example: the better it predicts the label, the larger.

    Zhang, Chen, Wang 2022, *Confidence-Aware Multi-Teacher Knowledge Distillation*, 2201.00007, equation 3:
    w_m = (1 - exp(L_m) / sum_j exp(L_j)) / (M - 1) with the cross entropy L_m of the label and teacher m's softmax.

    Args:
        logits: M at least 2 tensors `(B, ..., K)`.
        label: integers `(B, ...)` or `(B, ..., 1)`, or probabilities `(B, ..., K)`. A label that is not a class, such
            as -1 for an ignored position, gives all teachers the same weight.

    Returns:
        `(M, B, ..., 1)` float32, from 0 to 1 / (M - 1); the sum over the teachers is 1.

    Raises:
        ValueError: if there are no labels, or labels of another kind.

    >>> confident, wrong = np.array([[9.0, 0.0]]), np.array([[0.0, 9.0]])
    >>> [round(float(weight[0, 0]), 4) for weight in cross_entropy_weights([confident, wrong], np.array([0]))]
    [0.9999, 0.0001]
    """
    shape = tuple(logits[0].shape)
    classes = class_indices(label, logits[0])
    if classes is None:
        received = "none" if label is None else f"labels of shape {getattr(label, 'shape', type(label).__name__)}"
        advice = "use data with such labels, or pass a weight for each network"
        expected = f"labels of {shape[-1]} classes for Teacher(weights={CROSS_ENTROPY!r})"
        raise ValueError(explain_mismatch(expected, received, advice))
    is_soft = len(label.shape) == len(shape) and label.shape[-1] == shape[-1]
    target = ops.cast(label, "float32") if is_soft else ops.one_hot(classes, shape[-1], dtype="float32")
    losses = [-ops.sum(target * ops.log_softmax(ops.cast(z, "float32"), axis=-1), -1, keepdims=True) for z in logits]
    return (1.0 - ops.softmax(ops.stack(losses), axis=0)) / (len(logits) - 1)


def combine_logits(logits: Sequence[Tensor], weights: Tensor, combine: str, is_binary: bool) -> Tensor:
    """The logits of the weighted mean of several networks.

    Args:
        logits: M tensors `(B, ..., K)`.
        weights: `(M, ...)`, which broadcasts to the stacked logits; the sum over the networks is 1.
        combine: "probabilities" for the logarithm of the weighted mean of the softmax, or with `is_binary` the logit of
            the weighted mean of sigmoids; "logits" for the weighted mean of the logits. With weights of classes the
            softmax of the result normalizes the mean.
        is_binary: whether each unit has a sigmoid of its own.

    Returns:
        `(B, ..., K)` float32.

    >>> two = [np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])]
    >>> mixed = combine_logits(two, stack_weights([0.5, 0.5], rank=2), "probabilities", is_binary=False)
    >>> [round(float(value), 4) for value in np.exp(mixed)[0]]
    [0.7, 0.3]
    """
    stacked = ops.stack([ops.cast(tensor, "float32") for tensor in logits])
    if combine == "logits":
        return ops.sum(weights * stacked, axis=0)
    if is_binary:
        odds = [ops.logsumexp(ops.log_sigmoid(sign * stacked) + ops.log(weights), axis=0) for sign in (1, -1)]
        return odds[0] - odds[1]
    return ops.logsumexp(ops.log_softmax(stacked, axis=-1) + ops.log(weights), axis=0)


def divide_taps(wanted: Sequence[str], count: int) -> tuple[list[str], dict[str, tuple[int, str]]]:
    """The taps that are wanted of every network, and by their full names those of single networks.

    Args:
        wanted: names of taps, "1:embedding" for the embedding of network 1, counted from 0.
        count: the number of networks.

    Raises:
        ValueError: if a tap other than logits is wanted of several networks, or of a network that does not exist.

    >>> divide_taps(["logits", "1:embedding"], 2)
    (['logits'], {'1:embedding': (1, 'embedding')})
    """
    divided = {tap: split_number(tap) for tap in wanted}
    shared = [tap for tap, (number, _) in divided.items() if number is None]
    features = [tap for tap in shared if tap != "logits"]
    if features and count > 1:
        raise ValueError(
            f"A method that needs the taps {features} needs one teacher, but received {count}. Only the logits of "
            f'several teachers are combined: name one of them, teacher_tap="0:{features[0]}", for each method.'
        )
    numbered = {tap: (number, name) for tap, (number, name) in divided.items() if number is not None}
    missing = [tap for tap, (number, _) in numbered.items() if number >= count]
    if missing:
        raise ValueError(
            f"The teachers are numbered from 0 to {count - 1}, but received the tap {missing[0]!r}. Name another one."
        )
    return shared, numbered


class NumberedConstants:
    """The constants of several networks, by the numbers in the names of taps; as `Constants` of `networks/specs.py`.

    Args:
        networks: the specifications of each network.
    """

    def __init__(self, networks: Sequence[Specs]):
        self.networks = networks

    def classifier_weights(self) -> Any:
        """Raises a ValueError, because no tap says whose classifier is meant."""
        raise ValueError(
            f"The classifier of a teacher was requested, but there are {len(self.networks)} teachers. Pass one of them,"
            " or leave out the method that reads its classifier."
        )

    class_centers = classifier_weights

    def batch_norms(self, tap: str) -> Any:
        """The scale and the offset `(C,)` of the BatchNorm behind each map of a tap, float32."""
        number, name = split_number(tap)
        return self.networks[number or 0].batch_norms(name)

    def layer(self, tap: str) -> Any:
        """The layer that returns a tap of one tensor."""
        number, name = split_number(tap)
        return self.networks[number or 0].layer(name)

    def between(self, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[list], list] | None:
        """The part of a network from some taps to others.

        Raises:
            ValueError: if the taps are those of several networks.
        """
        taps = [[split_number(tap) for tap in side] for side in (inputs, outputs)]
        owners = {number for side in taps for number, _ in side}
        if len(owners) != 1 or None in owners:
            raise ValueError(
                f"The taps {[*inputs, *outputs]} must be those of one teacher, but name several. Give all of them the "
                "same number."
            )
        return self.networks[owners.pop() or 0].between(*([name for _, name in side] for side in taps))
