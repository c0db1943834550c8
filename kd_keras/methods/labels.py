"""What several methods do with labels and class counts."""

from __future__ import annotations

from typing import Any

from keras import ops, tree

from kd_keras.contracts import Batch, TapSpec, Tensor
from kd_keras.errors import explain_mismatch


def check_same_classes(student: TapSpec, teacher: TapSpec) -> None:
    """Raises ValueError where the two sides have different class counts, or a single logit."""
    came = f"student {student.layer!r} {student.shape}, teacher {teacher.layer!r} {teacher.shape}"
    if student.shape[-1] == 1:
        raise ValueError(explain_mismatch("logits of two or more classes", came, "give a binary model two logits"))
    if student.shape[-1] != teacher.shape[-1]:
        remedy = "Teacher(class_order=...) chooses and orders the teacher's classes"
        raise ValueError(explain_mismatch("logits of the same classes", came, remedy))


def target_mask(method: str, labels: Tensor, logits: Tensor) -> Tensor:
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
        raise ValueError(explain_mismatch(f"{method}: labels (B,), (B, 1) or (B, {classes})", came, remedy))
    if len(shape) == 2 and shape[1] == classes:
        labels = ops.argmax(labels, axis=-1)
    return ops.equal(ops.reshape(ops.cast(labels, "int32"), (-1, 1)), ops.arange(classes, dtype="int32"))


def class_indices(label: Any) -> Tensor | None:
    """`(B,)` int32 classes of integer or one-hot labels; `None` for none and for labels of another kind."""
    if label is None or tree.is_nested(label) or len(label.shape) > 2:
        return None
    one_hot = len(label.shape) == 2 and label.shape[-1] != 1
    return ops.cast(ops.argmax(label, axis=-1) if one_hot else ops.reshape(label, (-1,)), "int32")


def weighted_batch_mean(loss: Tensor, batch: Batch) -> Tensor:
    """The mean `()` of a loss `(B,)`, its examples weighted, for a method that is given the global batch."""
    return ops.mean(loss if batch.weight is None else loss * ops.reshape(ops.cast(batch.weight, "float32"), (-1,)))
