"""Labels, class counts and example weights, as several methods use them."""

from __future__ import annotations

from typing import Any

from keras import ops, tree

from kd_keras.contracts import Batch, TapSpec, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.methods.adapters import describe_pair


def check_same_classes(student: TapSpec, teacher: TapSpec) -> None:
    """Checks that the logits of both sides have the same number of classes, two or more.

    Raises:
        ValueError: if the numbers differ, or if the student has a single logit.
    """
    received = describe_pair(student, teacher)
    if student.shape[-1] == 1:
        raise ValueError(explain_mismatch("logits of two or more classes", received, "give a binary model two logits"))
    if student.shape[-1] != teacher.shape[-1]:
        advice = "pass Teacher(class_order=...) to choose and order the teacher's classes, or change the student"
        raise ValueError(explain_mismatch("logits of the same classes", received, advice))


def name_heads(options: Any) -> Any:
    """The arguments of a method of logits, with the taps that name another head as `"logits:<name>"`.

    >>> name_heads({"student_tap": "logits", "teacher_tap": ("other",), "weight": 2.0})
    {'student_tap': ('logits',), 'teacher_tap': ('logits:other',), 'weight': 2.0}
    """

    def as_head(tap: Any) -> Any:
        is_named = not isinstance(tap, str) or tap == "logits" or tap.startswith("logits:")
        return tap if is_named else f"logits:{tap}"

    chosen = {
        name: options[name]
        for name in ("student_tap", "teacher_tap")
        if isinstance(options.get(name), (str, list, tuple))
    }
    taps = {name: tuple(map(as_head, [tap] if isinstance(tap, str) else tap)) for name, tap in chosen.items()}
    return {**options, **taps}


def target_mask(method: str, labels: Tensor, logits: Tensor) -> Tensor:
    """The target class of each example as booleans `(B, K)`.

    Args:
        method: the name of the method, for the error message.
        labels: integers `(B,)` or `(B, 1)`, or probabilities `(B, K)`, whose largest entry is the target.
        logits: `(B, K)`; only the number of classes K is used.

    Raises:
        ValueError: if labels are missing or have another shape.

    >>> import numpy as np
    >>> target_mask("DKD", np.array([2]), np.zeros((1, 3))).numpy().tolist()
    [[False, False, True]]
    """
    classes, shape = logits.shape[-1], tuple(getattr(labels, "shape", ()))
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] not in (1, classes)):
        expected = f"labels (B,), (B, 1) or (B, {classes}) for method {method}"
        received = "none" if labels is None else f"{type(labels).__name__} of shape {shape}"
        advice = "use a dataset with such labels, or a method that needs no labels, for example KD"
        raise ValueError(explain_mismatch(expected, received, advice))
    if len(shape) == 2 and shape[1] == classes:
        labels = ops.argmax(labels, axis=-1)
    return ops.equal(ops.reshape(ops.cast(labels, "int32"), (-1, 1)), ops.arange(classes, dtype="int32"))


def class_indices(label: Any) -> Tensor | None:
    """The classes `(B,)` int32 of integer or one-hot labels; `None` if there are no labels or labels of another kind.

    >>> import numpy as np
    >>> class_indices(np.array([[0.1, 0.9], [0.7, 0.3]])).numpy().tolist()
    [1, 0]
    """
    if label is None or tree.is_nested(label) or len(label.shape) > 2:
        return None
    is_one_hot = len(label.shape) == 2 and label.shape[-1] != 1
    return ops.cast(ops.argmax(label, axis=-1) if is_one_hot else ops.reshape(label, (-1,)), "int32")


def weighted_batch_mean(loss: Tensor, batch: Batch) -> Tensor:
    """The mean `()` of a loss `(B,)` times the example weights, for a method that gets the global batch.

    The sum is divided by the number of examples, not by the sum of their weights.

    >>> import numpy as np
    >>> float(weighted_batch_mean(np.array([1.0, 2.0], "float32"), Batch(None, weight=np.array([0.0, 3.0]))))
    3.0
    """
    return ops.mean(loss if batch.weight is None else loss * ops.reshape(ops.cast(batch.weight, "float32"), (-1,)))
