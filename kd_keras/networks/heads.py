"""The head of a network: its logits, and the activation that makes its output of them.

The activation need not be the last operation: operations after it that keep all values, such as a cast, a reshape or a
linear activation in float32, are looked through. What no graph shows, such as a softmax in a Lambda layer, can only be
recognized by its values (`recognize_probabilities`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import activations, layers

from kd_keras.contracts import Tensor
from kd_keras.networks.graph import FUSED, Edge, Graph, Operation
from kd_keras.networks.layouts import permutation_of

REARRANGING = ("Reshape", "Flatten", "Permute", "Transpose", "Squeeze", "ExpandDims")
UNCHANGED = (
    "Identity",
    "ActivityRegularization",
    "Cast",
    "StopGradient",
    "Dropout",
    "SpatialDropout2D",
    "FakeQuantize",
)
LOGARITHMS = ("Log", "LogSoftmax")  # of probabilities they are logits
SMALLEST = 1e-7  # probabilities are raised to this before a logarithm


class Head(NamedTuple):
    """The last operations of a network.

    Attributes:
        logits: what the activation reads, or the output itself if there is none.
        activation: "softmax", "sigmoid", "linear" if the output is known to be logits, or "" if nothing is known.
        rearranging: the operations after the activation that change only the shape, in order.
        problem: why the activation cannot be taken off, or "".
    """

    logits: Tensor
    activation: str
    rearranging: tuple[Edge, ...] = ()
    problem: str = ""


def find_head(graph: Graph, output: Tensor) -> Head:
    """The head that computes an output `(..., K)` of a graph.

    Its activation cannot be taken off if it is part of a regularized layer, if its result is rescaled, or if a softmax
    is over another axis than the last one.

    >>> import keras
    >>> inputs = keras.Input((3,))
    >>> head = layers.Activation("linear", dtype="float32")(layers.Softmax()(layers.Dense(2)(inputs)))
    >>> graph = Graph(keras.Model(inputs, head))
    >>> find_head(graph, graph.output).activation
    'softmax'
    """
    passed: list[Edge] = []
    rescaling, tensor = "", output
    while (edge := graph.producer(tensor)) is not None:
        activation = _activation_of(edge.operation)
        if activation in ("softmax", "sigmoid"):
            rearranging = tuple(edge for edge in reversed(passed) if _name(edge) in REARRANGING)
            return Head(edge.sources[0], activation, rearranging, _problem_of(edge, activation, rearranging, rescaling))
        if isinstance(edge.original, layers.Rescaling):
            rescaling = rescaling or ("" if _is_identity(edge.original) else edge.path)
        elif not keeps_values(edge.original):
            break
        passed.append(edge)
        tensor = edge.sources[0]
    is_known = edge is not None and (isinstance(edge.original, FUSED) or _name(edge) in LOGARITHMS)
    is_known = is_known or (edge is not None and _activation_of(edge.operation) == "log_softmax")
    return Head(output, "linear" if is_known else "")


def recognize_probabilities(values: Any) -> str:
    """What the rows of a network's output look like: "softmax", "sigmoid", or "" for logits.

    Args:
        values: `(..., K)` numbers.

    Returns:
        "softmax" if all rows are non-negative and have the same sum, 1 or that of percentages; "sigmoid" if all of 16
        or more different values are from 0 to 1.

    >>> recognize_probabilities([[0.25, 0.75], [1.0, 0.0]]), recognize_probabilities([[0.25, -0.75], [1.0, 0.0]])
    ('softmax', '')
    """
    values = np.asarray(values, "float32")
    rows = values.reshape(-1, values.shape[-1])
    if not rows.size or not np.isfinite(rows).all() or rows.min() < 0:
        return ""
    sums = rows.sum(-1)
    if rows.shape[-1] > 1 and any(np.abs(sums / whole - 1).max() < 1e-2 for whole in (1, 100)):
        return "softmax"
    return "sigmoid" if rows.max() <= 1 and np.unique(rows).size >= 16 else ""


def logits_of(probabilities: np.ndarray, activation: str) -> np.ndarray:
    """Logits `(..., K)` float32 whose softmax or sigmoid the probabilities are, which are raised to 1e-7.

    >>> logits_of(np.array([[0.5]]), "sigmoid").tolist()
    [[0.0]]
    """
    values = np.maximum(np.asarray(probabilities, "float64"), SMALLEST)
    if activation == "sigmoid":
        values = np.minimum(values, 1 - SMALLEST)
        return np.log(values / (1 - values)).astype("float32")
    return np.log(values).astype("float32")


def _problem_of(edge: Edge, activation: str, rearranging: tuple[Edge, ...], rescaling: str) -> str:
    """Why the output is no plain activation of logits whose last axis is that of the classes, or ""."""
    if not _is_plain_activation(edge.operation):
        return f"{edge.path!r} regularizes its {activation}. Make the {activation} a layer by itself"
    if rescaling:
        return f"{rescaling!r} rescales the probabilities of its {activation}. Let it return the probabilities"
    if activation == "softmax" and not _ends_in_classes(edge, rearranging):
        return "its softmax is not over the last axis of its output. Put the classes on the last axis"
    return ""


def _ends_in_classes(softmax: Edge, rearranging: tuple[Edge, ...]) -> bool:
    """Whether the axis of a softmax is the last one after operations that rearrange its result."""
    rank, axis = len(softmax.sources[0].shape), getattr(softmax.original, "axis", -1)
    axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
    if not isinstance(axis, int):
        return False
    axis %= rank
    for edge in rearranging:
        before, after = edge.sources[0].shape, edge.results[0].shape
        order = permutation_of(edge.original, len(before))
        if order is not None:
            axis = order.index(axis)
        elif axis == len(before) - 1 and before[-1] == after[-1]:
            axis = len(after) - 1
        else:
            return False
        rank = len(after)
    return axis == rank - 1


def _name(edge: Edge) -> str:
    return type(edge.original).__name__


def _activation_of(operation: Operation) -> str:
    """The name of the activation that ends an operation, or "" for none."""
    activation: Any = getattr(operation, "activation", None)  # Keras's or TensorFlow's
    name = getattr(activation, "__name__", "").removesuffix("_v2")
    if type(operation).__name__ == "Softmax" or name == "softmax":
        return "softmax"
    is_plain = isinstance(operation, (layers.Activation, *FUSED))
    if type(operation).__name__ == "Sigmoid" or (is_plain and name == "sigmoid"):
        return "sigmoid"
    return name if is_plain else ""


def _is_plain_activation(operation: Operation) -> bool:
    return isinstance(operation, layers.Activation) or type(operation).__name__ in ("Softmax", "Sigmoid")


def keeps_values(operation: Operation) -> bool:
    """Whether the results of an operation are its inputs, at most in another shape."""
    if isinstance(operation, layers.Activation):
        return operation.activation is activations.linear
    return type(operation).__name__ in (*REARRANGING, *UNCHANGED)


def _is_identity(rescaling: layers.Rescaling) -> bool:
    return bool(np.all(np.asarray(rescaling.scale) == 1) and np.all(np.asarray(rescaling.offset) == 0))
