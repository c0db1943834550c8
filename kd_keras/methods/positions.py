"""Classes of positions, for methods of dense predictions: masks at the size of a map, and what is ignored."""

from __future__ import annotations

from typing import Any

from keras import ops, tree

from kd_keras.contracts import IGNORED, Batch, Tensor
from kd_keras.distribute.reductions import sum_over_replicas, weight_at
from kd_keras.errors import explain_mismatch
from kd_keras.methods.labels import class_indices
from kd_keras.primitives import resize_nearest


def classes_at(label: Any, maps: Tensor, method: str) -> Tensor:
    """The class of each position of a map, by nearest neighbor with half-pixel centers.

    Args:
        label: a mask `(B, H, W)` or `(B, H, W, 1)` of integers, negative for an ignored pixel; or one class for each
            image, `(B,)`, `(B, 1)` or probabilities `(B, K)`, which then holds for all its positions.
        maps: `(B, h, w, C)`; only the size is used.
        method: the name of the method, for the error message.

    Returns:
        `(B, h, w)` int32.

    Raises:
        ValueError: if there are no such labels.

    >>> import numpy as np
    >>> classes_at(np.array([[[0, 1, 2, 3]]]), np.zeros((1, 1, 2, 5)), "ifvd").numpy().tolist()
    [[[1, 3]]]
    """
    size = tuple(maps.shape[1:3])
    if (mask := as_mask(label)) is not None:
        return resize_nearest(mask, size)
    classes = class_indices(label)
    if classes is None:
        expected = f"a mask of classes (B, H, W), or one class for each image, as labels for method {method!r}"
        received = "none" if label is None else f"{type(label).__name__} of shape {getattr(label, 'shape', '')}"
        raise ValueError(explain_mismatch(expected, received, "use a method that needs no labels, for example CWD"))
    return ops.broadcast_to(classes[:, None, None], (ops.shape(classes)[0], *size))


def as_mask(label: Any) -> Tensor | None:
    """A label as mask `(B, H, W)` int32, or `None` if it is no integer tensor `(B, H, W)` or `(B, H, W, 1)`."""
    if label is None or tree.is_nested(label) or not hasattr(label, "dtype"):
        return None
    label = ops.squeeze(label, -1) if len(label.shape) == 4 and label.shape[-1] == 1 else label
    return ops.cast(label, "int32") if len(label.shape) == 3 and _is_integer(label) else None


def mark_ignored(label: Any, ignored: int | None) -> Any:
    """Labels of integers with -1 for the class that does not count; other labels are returned as they are.

    >>> import numpy as np
    >>> mark_ignored(np.array([3, 255], "uint8"), 255).numpy().tolist()
    [3, -1]
    """
    if ignored in (None, IGNORED) or label is None or tree.is_nested(label) or not _is_integer(label):
        return label
    label = ops.cast(label, "int32")
    return ops.where(label == ignored, IGNORED, label)


def _is_integer(label: Any) -> bool:
    return "int" in str(getattr(label.dtype, "name", label.dtype))


def valid_positions(label: Any, maps: Tensor) -> Tensor | None:
    """Which positions of a map have a class, `(B, h, w)` bool, by nearest neighbor; `None` if labels are not masks.

    >>> import numpy as np
    >>> valid_positions(np.array([[[0, -1]]]), np.zeros((1, 1, 2, 5))).numpy().tolist()
    [[[True, False]]]
    """
    mask = as_mask(label)
    return None if mask is None else resize_nearest(mask, tuple(maps.shape[1:3])) >= 0


def exclude_ignored(loss: Tensor, label: Any) -> Tensor:
    """A loss of positions `(B, h, w)` without the ignored ones, whose mean is the mean over the others.

    A loss of another rank, or with labels that are not masks, is returned as it is. The divisor is the number of valid
    positions in the batches of all replicas.

    >>> import numpy as np
    >>> exclude_ignored(np.array([[[2.0, 4.0]]], "float32"), np.array([[[0, -1]]])).numpy().tolist()
    [[[4.0, 0.0]]]
    """
    if len(loss.shape) != 3:
        return loss
    valid = valid_positions(label, loss[..., None])
    if valid is None:
        return loss
    count = ops.sum(ops.cast(valid, "float32"))
    totals = sum_over_replicas(ops.stack([count, ops.cast(ops.size(loss), "float32")]))
    return ops.where(valid, loss, 0.0) * (totals[1] / ops.maximum(totals[0], 1.0))


def mean_over_valid(loss: Tensor, valid: Tensor, batch: Batch) -> Tensor:
    """The sum of a loss `(B, h, w)` times the sample weights, divided by the number of valid positions: `()` float32.

    For a method that gets the global batch.

    Args:
        loss: `(B, h, w)`, 0 at other positions.
        valid: `(B, h, w)` bool.
        batch: with sample weights `(B,)` or of pixels `(B, H, W)`, which are those of the nearest pixels.

    >>> import numpy as np
    >>> loss, valid = np.array([[[2.0, 4.0]]], "float32"), np.array([[[True, False]]])
    >>> float(mean_over_valid(loss, valid, Batch(None, weight=np.array([3.0]))))
    6.0
    """
    count = ops.sum(ops.cast(valid, "float32"))
    if batch.weight is not None:
        loss = loss * weight_at(loss, batch.weight)
    return ops.sum(ops.where(valid, loss, 0.0)) / ops.maximum(count, 1.0)
