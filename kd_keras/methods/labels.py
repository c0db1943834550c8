"""Labels, class counts and example weights, as several methods use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import ops, tree

from kd_keras.contracts import Batch, TapSpec, Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.methods.adapters import describe_pair
from kd_keras.networks.taps import split_number
from kd_keras.primitives import as_two_classes


def check_same_classes(student: TapSpec, teacher: TapSpec) -> bool:
    """Checks that the logits of both sides are those of the same classes.

    A single unit z stands for the logits (0, z) of two classes; `match_units` converts the teacher's logits.

    Returns:
        Whether they are units with a sigmoid each, instead of classes with one softmax.

    Raises:
        ValueError: if the numbers differ, or if one side has a softmax and the other a sigmoid.

    >>> check_same_classes(TapSpec("a", (None, 2)), TapSpec("b", (None, 1), "sigmoid"))
    False
    """
    sizes, heads = (student.shape[-1], teacher.shape[-1]), {student.activation, teacher.activation}
    received = describe_pair(student, teacher)
    if sizes not in ((2, 1), (1, 2)) and sizes[0] != sizes[1]:
        advice = "pass Teacher(class_order=...) to choose and order the teacher's classes, or change the student"
        raise ValueError(explain_mismatch("logits of the same classes", received, advice))
    wider = student if sizes == (2, 1) else teacher if sizes == (1, 2) else None
    is_mixed = {"softmax", "sigmoid"} <= heads if wider is None else wider.activation == "sigmoid"
    if is_mixed or any(spec.shape[-1] == 1 and spec.activation == "softmax" for spec in (student, teacher)):
        expected = "a softmax over the same classes, or a sigmoid for each, at the end of both networks"
        received = f"{received}, which end in {student.activation or 'no'} and {teacher.activation or 'no'} activation"
        raise ValueError(explain_mismatch(expected, received, "change the last layer of the student"))
    return sizes[0] == 1 or (wider is None and "sigmoid" in heads)


def refuse_binary(method: str, student: TapSpec, teacher: TapSpec) -> str:
    """The error message of a method that has no loss for units with a sigmoid each."""
    expected = f"classes with one softmax for method {method!r}"
    advice = "use KD(binary=True) or Logits(form='mse'), or end both networks in a softmax over two or more classes"
    return explain_mismatch(expected, f"units with a sigmoid each: {describe_pair(student, teacher)}", advice)


def match_units(teacher: Tensor, student: Tensor) -> Tensor:
    """The teacher's logits in the form of the student's, if only one of them has two classes as a single unit.

    Args:
        teacher: `(..., K)` logits.
        student: `(..., K')` logits; only K' is used.

    Returns:
        (0, z) for the teacher's z if the student has two classes; z_1 - z_0 for the teacher's (z_0, z_1) if the student
        has one unit; else the teacher's logits.

    >>> import numpy as np
    >>> match_units(np.array([[1.0, 3.0]]), np.zeros((1, 1))).tolist()
    [[2.0]]
    """
    sizes = student.shape[-1], teacher.shape[-1]
    if sizes == (2, 1):
        return as_two_classes(teacher)
    return teacher[..., 1:] - teacher[..., :1] if sizes == (1, 2) else teacher


def check_same_positions(method: str, student: TapSpec, teacher: TapSpec) -> None:
    """Checks that the logits of both sides have the same positions: `(B, K)` or, equally sized, `(B, ..., K)`.

    Raises:
        ValueError: if the ranks or the sizes differ; otherwise they would be broadcast.
    """
    positions = student.shape[1:-1], teacher.shape[1:-1]
    if not _agree(*positions):
        expected = f"logits with the same positions for method {method!r}"
        advice = "resize the logits of one network in a layer, or choose networks with the same output size"
        raise ValueError(explain_mismatch(expected, describe_pair(student, teacher), advice))


def check_one_prediction(method: str, shape: tuple) -> None:
    """Checks that logits are `(B, K)`, one prediction for each example.

    Raises:
        ValueError: if they are `(B, ..., K)`.
    """
    if len(shape) != 2:
        advice = "the method needs one prediction for each example; use KD() or DIST(positions=True) for many positions"
        raise ValueError(explain_mismatch(f"logits (B, K) for method {method!r}", f"the shape {tuple(shape)}", advice))


def name_heads(options: Any) -> Any:
    """The arguments of a method of logits, with the taps that name another head as `"logits:<name>"`.

    >>> name_heads({"student_tap": "logits", "teacher_tap": ("other", "1:logits"), "weight": 2.0})
    {'student_tap': ('logits',), 'teacher_tap': ('logits:other', '1:logits'), 'weight': 2.0}
    """

    def as_head(tap: Any) -> Any:
        if not isinstance(tap, str):
            return tap
        number, name = split_number(tap)
        head = name if name == "logits" or name.startswith("logits:") else f"logits:{name}"
        return head if number is None else f"{number}:{head}"

    chosen = {
        name: options[name]
        for name in ("student_tap", "teacher_tap")
        if isinstance(options.get(name), (str, list, tuple))
    }
    taps = {name: tuple(map(as_head, [tap] if isinstance(tap, str) else tap)) for name, tap in chosen.items()}
    return {**options, **taps}


def target_mask(method: str, labels: Tensor, logits: Tensor) -> Tensor:
    """The target class of each example, or of each position, as booleans `(B, ..., K)`.

    Args:
        method: the name of the method, for the error message.
        labels: integers `(B, ...)` or `(B, ..., 1)`, or probabilities `(B, ..., K)`, whose largest entry is the target.
            A label that is not a class, such as -1 for an ignored position, has no target: all booleans are false.
        logits: `(B, ..., K)`; only their shape is used.

    Raises:
        ValueError: if labels are missing or have another shape.

    >>> import numpy as np
    >>> target_mask("DKD", np.array([2]), np.zeros((1, 3))).numpy().tolist()
    [[False, False, True]]
    """
    classes = class_indices(labels, logits)
    if classes is None:
        shape = tuple(getattr(labels, "shape", ()))
        positions = "".join(f", {size}" for size in logits.shape[1:-1])
        expected = (
            f"labels (B{positions}), (B{positions}, 1) or (B{positions}, {logits.shape[-1]}) for method {method}"
            if positions
            else f"labels (B,), (B, 1) or (B, {logits.shape[-1]}) for method {method}"
        )
        received = "none" if labels is None else f"{type(labels).__name__} of shape {shape}"
        advice = "use a dataset with such labels, or a method that needs no labels, for example KD"
        raise ValueError(explain_mismatch(expected, received, advice))
    return ops.equal(ops.expand_dims(classes, -1), ops.arange(logits.shape[-1], dtype="int32"))


def class_indices(label: Any, logits: Tensor | None = None) -> Tensor | None:
    """The classes int32 of integer or one-hot labels; `None` if there are no labels or labels of another kind.

    Args:
        label: integers `(B, ...)` or `(B, ..., 1)`, or probabilities `(B, ..., K)`.
        logits: `(B, ..., K)`, of which only the shape is used; without them, one prediction `(B, K)` for each example
            is assumed.

    Returns:
        `(B, ...)`, the shape of the logits without their last axis.

    >>> import numpy as np
    >>> class_indices(np.array([[0.1, 0.9], [0.7, 0.3]])).numpy().tolist()
    [1, 0]
    >>> class_indices(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 3))).shape
    TensorShape([2, 4, 4])
    """
    if label is None or tree.is_nested(label):
        return None
    shape = tuple(label.shape)
    positions, classes = ((None,), None) if logits is None else (tuple(logits.shape[:-1]), logits.shape[-1])
    if _agree(shape, positions):
        return ops.cast(label, "int32")
    if shape[-1:] == (1,) and _agree(shape[:-1], positions):
        return ops.cast(ops.squeeze(label, -1), "int32")
    return ops.cast(ops.argmax(label, axis=-1), "int32") if _agree(shape, (*positions, classes)) else None


def _agree(shape: tuple, expected: tuple) -> bool:
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(a is None or b is None or a == b for a, b in pairs)


def weighted_batch_mean(loss: Tensor, batch: Batch) -> Tensor:
    """The mean `()` of a loss `(B,)` times the example weights, for a method that gets the global batch.

    The sum is divided by the number of examples, not by the sum of their weights. Weights of positions `(B, ...)` are
    averaged over the positions of each example.

    Raises:
        ValueError: if there are several weights.

    >>> import numpy as np
    >>> float(weighted_batch_mean(np.array([1.0, 2.0], "float32"), Batch(None, weight=np.array([0.0, 3.0]))))
    3.0
    """
    weights = [weight for weight in tree.flatten(batch.weight) if weight is not None]
    if not weights:
        return ops.mean(loss)
    if len(weights) > 1:
        advice = "use a structure of weights only with the hard loss, without methods"
        raise ValueError(
            explain_mismatch("one sample weight for each example, (B,)", f"{len(weights)} weights", advice)
        )
    weight = ops.cast(weights[0], "float32")
    return ops.mean(loss * ops.mean(weight, axis=tuple(range(1, len(weight.shape)))))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy `(B,)` float32 of logits `(B, K)`; labels are classes `(B,)` or `(B, 1)`, or probabilities.

    >>> import numpy as np
    >>> cross_entropy(np.log([[1.0, 3.0]]), np.array([1])).numpy().round(4).tolist()  # -log(3 / 4)
    [0.28769999742507935]
    """
    log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == 1 or labels.shape[-1] == 1:
        labels = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), log_p.shape[-1])
    return -ops.sum(ops.cast(labels, "float32") * log_p, axis=-1)


def require_boxes(method: str, label: Any) -> tuple[Tensor, Tensor]:
    """The boxes `(B, M, 4)`, "rel_yxyx", and the classes `(B, M)`, -1 for a row without an object, of labels.

    Raises:
        ValueError: if the labels have no boxes.

    >>> import numpy as np
    >>> [array.shape for array in require_boxes("fgd", {"boxes": np.zeros((2, 3, 4)), "classes": np.zeros((2, 3))})]
    [(2, 3, 4), (2, 3)]
    """
    if not isinstance(label, Mapping) or not {"boxes", "classes"} <= set(label):
        received = f"labels with {', '.join(map(str, label))}" if isinstance(label, Mapping) else "other labels"
        expected = f'labels with "boxes" (B, M, 4) and "classes" (B, M) for method {method!r}'
        advice = "use a dataset with boxes, as data.load_boxes opens it"
        raise ValueError(explain_mismatch(expected, "none" if label is None else received, advice))
    return label["boxes"], label["classes"]
