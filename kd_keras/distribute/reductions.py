"""What a training step computes over all replicas: sums, gathered rows and the weighted mean of the loss.

On a single replica these functions add no communication. With several, each replica has its slice of the global batch,
slices may differ in size, and Keras sums the gradients of all replicas.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops, tree

from kd_keras.contracts import Batch, Tensor
from kd_keras.primitives import resize_nearest


class GlobalMean(NamedTuple):
    """The loss of one step, as one replica sees it.

    Attributes:
        objective: `()` float32, the part of the mean over the global batch that this replica differentiates.
        means: `()` float32 each, over this replica's slice: "loss", every term by name, and "regularization" if any.
        fraction: this replica's fraction of the rows of the global batch, in (0, 1].
        summands: `()` float32 each, the summands of the objective: every term by name, and "regularization" if any.
    """

    objective: Tensor
    means: dict[str, Tensor]
    fraction: Tensor | float
    summands: dict[str, Tensor]


def weighted_global_mean(
    terms: Mapping[str, tuple[Tensor | float, Tensor]],
    penalties: Sequence[Tensor],
    batch: Batch,
    scale_loss: Callable[[Tensor], Tensor],
) -> GlobalMean:
    """Averages the terms of the loss over the global batch.

    Args:
        terms: the weight `()` and the loss, `(B,)`, `(B, ...)` or `()`, of each term by name.
        penalties: the regularization losses, `()` each; they do not depend on the batch.
        batch: this replica's slice, with the sample weights.
        scale_loss: the method of the optimizer that scales the loss if gradients are computed in float16.

    Raises:
        ValueError: if a loss `(B, ...)` comes with several sample weights, or with weights of other positions.

    >>> batch = Batch(inputs=tf.zeros((2, 3)), weight=tf.constant([1.0, 3.0]))
    >>> mean = weighted_global_mean({"kd": (0.5, tf.constant([2.0, 4.0]))}, [], batch, lambda loss: loss)
    >>> float(mean.means["kd"]), float(mean.objective)
    (7.0, 3.5)
    """
    means = {name: _weighted_mean(loss, batch.weight) for name, (_, loss) in terms.items()}
    loss = sum(ops.cast(weight, "float32") * means[name] for name, (weight, _) in terms.items())
    penalty = sum(ops.sum(ops.cast(value, "float32")) for value in penalties)
    replicas, rows = replica_count(), ops.cast(count_rows(batch), "float32")
    fraction = 1.0 if replicas == 1 else rows / sum_over_replicas(rows)
    objective = scale_loss(fraction * loss + penalty / replicas)
    regularization = {"regularization": penalty} if penalties else {}
    summands = {name: ops.cast(weight, "float32") * means[name] * fraction for name, (weight, _) in terms.items()}
    summands |= {name: value / replicas for name, value in regularization.items()}
    return GlobalMean(
        objective,
        {"loss": loss + penalty, **means, **regularization},
        fraction,
        {name: scale_loss(value) for name, value in summands.items()},
    )


def _weighted_mean(loss: Tensor, weight: Any) -> Tensor:
    """The mean over the slice as Keras's losses compute it: the sum of weighted values, divided by their number."""
    loss = ops.cast(loss, "float32")
    if len(loss.shape) == 0:
        return loss
    count = ops.cast(ops.maximum(ops.size(loss), 1), "float32")
    return ops.sum(loss if weight is None else loss * weight_at(loss, weight)) / count


def weight_at(loss: Tensor, weight: Any) -> Tensor:
    """As `weight_like`; of weights of pixels `(B, H, W)`, a loss `(B, h, w)` of a smaller map takes the nearest ones.

    >>> weight_at(tf.zeros((1, 1, 2)), tf.constant([[[1.0, 2.0, 3.0, 4.0]]])).numpy().tolist()
    [[[2.0, 4.0]]]
    """
    return weight_like(loss, resize_nearest(weight, tuple(loss.shape[1:])) if _is_of_pixels(weight, loss) else weight)


def _is_of_pixels(weight: Any, loss: Tensor) -> bool:
    """Whether weights `(B, H, W)` have more positions than a loss `(B, h, w)`; fewer are an error."""
    if tree.is_nested(weight) or tf.TensorShape(weight.shape).rank != 3 or len(loss.shape) != 3:
        return False
    return all(None not in pair and pair[0] >= pair[1] for pair in zip(weight.shape[1:], loss.shape[1:], strict=True))


def weight_like(loss: Tensor, weight: Any) -> Tensor:
    """Sample weights in the rank of a loss, float32: the weight of an example holds for all its positions.

    Args:
        loss: `(B, ...)`.
        weight: `(B,)`, `(B, ...)` or one of these with a last axis of size 1. Weights of positions, for a loss without
            them, are averaged over the positions of each example.

    Raises:
        ValueError: if the weights are a structure, or if they have other positions than the loss.

    >>> weight_like(tf.zeros((2, 3, 3)), tf.ones((2,))).shape, weight_like(tf.zeros((2,)), tf.ones((2, 3, 3))).shape
    (TensorShape([2, 1, 1]), TensorShape([2]))
    """
    if tree.is_nested(weight):
        shapes = tree.map_structure(lambda component: tuple(component.shape), weight)
        raise ValueError(
            f"A method needs one sample weight for each example, (B,), but received a structure of shapes {shapes}. "
            "Use such a structure only with the hard loss, without methods."
        )
    weight, rank = ops.cast(weight, "float32"), len(loss.shape)
    if weight.shape.rank is None:
        raise ValueError(
            "Expected sample weights of one rank in all calls of fit or evaluate, but received weights of several "
            "ranks, for examples and for positions. Call compile() between them."
        )
    if len(weight.shape) == rank + 1 and weight.shape[-1] == 1:
        weight = ops.squeeze(weight, -1)
    if any(
        None not in pair and pair[0] != pair[1] and pair[0] != 1 for pair in zip(weight.shape, loss.shape, strict=False)
    ):
        raise ValueError(
            f"Expected sample weights for the examples (B,) or for the positions of a loss of shape {loss.shape}, but "
            f"received weights of shape {weight.shape}. Pass one weight for each example."
        )
    if len(weight.shape) > rank:
        return ops.mean(weight, axis=tuple(range(rank, len(weight.shape))))
    return ops.reshape(weight, (*ops.shape(weight), *[1] * (rank - len(weight.shape))))


def mean_of_counted_rows(mean: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Turns a mean over all rows into the mean over the rows with a nonzero weight, and returns it with their number.

    With several replicas, the last batch of an evaluation is padded with rows of weight 0, or a replica has no row at
    all. If no row counts, both values are 0.

    Args:
        mean: `()` float32.
        batch: this replica's slice, with the sample weights.

    >>> batch = Batch(inputs=tf.zeros((4, 3)), weight=tf.constant([1.0, 1.0, 0.0, 0.0]))
    >>> [float(value) for value in mean_of_counted_rows(tf.constant(1.5), batch)]
    [3.0, 2.0]
    """
    rows = ops.cast(count_rows(batch), "float32")
    weights = [weight for weight in tree.flatten(batch.weight) if weight is not None]
    counts = [ops.any(weight != 0, axis=tuple(range(1, len(weight.shape)))) for weight in weights]
    counted = ops.cast(ops.count_nonzero(functools.reduce(ops.logical_or, counts)), "float32") if counts else rows
    return ops.where(counted > 0, mean * rows / ops.maximum(counted, 1), 0.0), counted


def count_rows(batch: Batch) -> Tensor:
    """The number of rows of this replica's slice, `()` int32."""
    return ops.shape(tree.flatten(batch.inputs)[0])[0]


def replica_count() -> int:
    """The number of replicas of the current strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(values: Tensor) -> Tensor:
    """The sum of a tensor over all replicas; outside of a replica, as when Keras builds a loss, the tensor itself."""
    context = tf.distribute.get_replica_context()
    if replica_count() == 1 or context is None:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def gather_rows(structure: Any) -> Any:
    """The rows of all replicas, in the order of replicas, with gradients; call it within a replica.

    Args:
        structure: of tensors `(B, ...)` and `None`, which stays `None`.
    """
    if replica_count() == 1:
        return structure
    context = tf.distribute.get_replica_context()
    # The copy is on this replica's device: over several workers TensorFlow cannot gather a tensor without a device.

    def gather(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        rows = context.all_gather(tf.identity(x), axis=0)
        return tf.ensure_shape(rows, [None, *x.shape[1:]])  # over several workers the gathered shape is unknown

    return tree.map_structure(gather, structure)
