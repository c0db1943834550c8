"""The format of a teacher's outputs on disk: one record for each example, all of one length.

A record contains the example's number and the columns of its taps, one after the other, as little-endian values. For
logits stored as `"top-<k>"` it contains the k largest as float16, their classes, and the logarithm of the sum of the
exponentials of the rest. At temperature 1 the k classes then have the teacher's probabilities, and the other classes
share the remaining probability equally.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd_keras.contracts import TapSpec
from kd_keras.errors import explain_mismatch

FORMS = ("float32", "float16", "top-<k>")
LARGEST = float(np.finfo("float16").max)
TEMPERATURES = (1, 4)  # of the softmax when the storage error is measured


def columns(specs: Mapping[str, Any]) -> Iterator[tuple[str, str, TapSpec]]:
    """Yields tap, column name and specification for each tensor of some taps; every stage is a separate column.

    >>> list(columns({"logits": TapSpec("head", (None, 10))}))
    [('logits', 'logits/0', TapSpec(layer='head', shape=(None, 10), activation=''))]
    """
    for tap, spec in specs.items():
        for number, part in enumerate(spec if isinstance(spec, list) else [spec]):
            yield tap, f"{tap}/{number}", part


def select_column(outputs: Mapping[str, Any], tap: str, column: str) -> Any:
    """The tensor of one column: the tap itself, or one of its maps.

    >>> select_column({"stages": ["first", "second"]}, "stages", "stages/1")
    'second'
    """
    tensors = outputs[tap]
    return tensors[int(column.rsplit("/", 1)[1])] if isinstance(tensors, (list, tuple)) else tensors


def record_type(specs: Mapping[str, Any], logits: str) -> np.dtype:
    """The layout of one record.

    Args:
        specs: what the taps deliver, with shapes `(None, ...)` of known sizes.
        logits: the storage form of logits, one of `FORMS`; every other tap is stored as float16.

    Raises:
        ValueError: if the form is unknown, k is outside 1..K-1 or the classes are sigmoid units, or a tap has no fixed
            size.

    >>> record_type({"logits": TapSpec("head", (None, 10))}, "top-3").itemsize
    24
    """
    fields: list[tuple] = [("index", "<i8")]
    for tap, column, spec in columns(specs):
        shape = tuple(spec.shape[1:])
        if None in shape:
            received = f"{tap!r} at layer {spec.layer!r} with shape {spec.shape}"
            advice = "use a network with a fixed input_shape"
            raise ValueError(explain_mismatch("taps of a known size, to record them", received, advice))
        k = stored_classes(logits) if tap == "logits" else None
        if k is None:
            fields.append((column, f"<f{2 if tap != 'logits' or logits == 'float16' else 4}", shape))
            continue
        if spec.activation == "sigmoid":
            expected, advice = "classes with one softmax, to store logits as top-<k>", "store logits as float16"
            raise ValueError(explain_mismatch(expected, f"units with a sigmoid each, {spec.layer!r}", advice))
        if not 1 <= k < shape[-1]:
            expected = f"logits='top-<k>' with k from 1 to {shape[-1] - 1}, fewer than the {shape[-1]} classes"
            raise ValueError(explain_mismatch(expected, repr(logits)))
        number = "<u2" if shape[-1] <= 2**16 else "<i4"
        fields += [(f"{column}:classes", number, (*shape[:-1], k)), (f"{column}:values", "<f2", (*shape[:-1], k))]
        fields.append((f"{column}:rest", "<f4", shape[:-1]))
    return np.dtype(fields)


def stored_classes(logits: str) -> int | None:
    """The k of `"top-<k>"`, or `None` if all classes are stored.

    Raises:
        ValueError: if the form is unknown.

    >>> stored_classes("top-5")
    5
    """
    if logits in FORMS[:2]:
        return None
    if not (isinstance(logits, str) and logits.startswith("top-") and logits[4:].isdigit()):
        raise ValueError(explain_mismatch(f"logits= one of {', '.join(FORMS)}, such as top-16", repr(logits)))
    return int(logits[4:])


def decode(records: np.ndarray, specs: Mapping[str, Any]) -> list[np.ndarray]:
    """The taps of some records in the order of `columns`, `(B, ...)` float32 each.

    If only the k largest logits were stored, the other classes share the remaining probability equally.
    """
    return [_decode_column(records, column, spec) for _, column, spec in columns(specs)]


def _decode_column(records: np.ndarray, column: str, spec: TapSpec) -> np.ndarray:
    if column in (records.dtype.names or ()):
        return records[column].astype("float32")
    classes, values = records[f"{column}:classes"], records[f"{column}:values"]
    others = spec.shape[-1] - classes.shape[-1]
    full = np.repeat(records[f"{column}:rest"][..., None] - np.float32(np.log(others)), spec.shape[-1], axis=-1)
    np.put_along_axis(full, classes.astype("int64"), values.astype("float32"), axis=-1)
    return full


def encode(outputs: Mapping[str, Any], index: np.ndarray, specs: Mapping[str, Any], logits: str) -> np.ndarray:
    """The records of a batch of outputs, `(B,)` of `record_type`.

    Args:
        outputs: the taps: tensors `(B, ...)`, or lists of them for stages.
        index: `(B,)` example numbers.
        specs: what the taps deliver.
        logits: the storage form of logits.

    Raises:
        ValueError: if a value is not finite, or too large for float16.

    >>> specs = {"logits": TapSpec("head", (None, 3))}
    >>> encode({"logits": np.array([[1.0, 5.0, 2.0]])}, np.array([7]), specs, "top-1")["logits/0:values"].item()
    5.0
    """
    records = np.zeros(len(index), record_type(specs, logits))
    records["index"] = index
    for tap, column, _ in columns(specs):
        values = np.asarray(select_column(outputs, tap, column), "float32")
        k = stored_classes(logits) if tap == "logits" else None
        _check_range(column, values, is_half=k is not None or records.dtype[column].base.itemsize == 2)
        if k is None:
            records[column] = values
            continue
        parts = _select_largest(values, k)
        for name, part in zip(("classes", "values", "rest"), parts, strict=True):
            records[f"{column}:{name}"] = part
    return records


def _check_range(column: str, values: np.ndarray, is_half: bool) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"The teacher must have finite outputs, but {column} has NaN or infinity. Train it again.")
    largest = np.abs(values).max(initial=0)
    if is_half and largest > LARGEST:
        is_logits = column.startswith("logits/")
        advice = 'pass logits="float32"' if is_logits else "choose another tap, such as one after a normalization layer"
        expected = f"values up to {LARGEST:,.0f}, to store {column} as float16"
        raise ValueError(explain_mismatch(expected, f"{largest:,.0f}", advice))


def _select_largest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The classes and values of the k largest, `(..., k)`, and the log-sum-exp of the others `(...)`."""
    order = np.argsort(-values, axis=-1, kind="stable")
    sorted_values = np.take_along_axis(values, order, axis=-1)
    others = sorted_values[..., k:].astype("float64")
    top = others[..., :1]
    rest = top[..., 0] + np.log(np.exp(others - top).sum(-1))
    return order[..., :k], sorted_values[..., :k], rest


def divergence(logits: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """KL(teacher || its stored form) at each of the T `TEMPERATURES`, in nats, at least 0.

    Args:
        logits: the teacher's logits `(..., K)`.
        stored: the logits `(..., K)` as they are read from the recording.

    Returns:
        `(T, ...)` float64.

    >>> divergence(np.zeros((1, 4)), np.zeros((1, 4))).tolist()
    [[0.0], [0.0]]
    """

    def log_softmax(values: np.ndarray) -> np.ndarray:
        shifted = values - values.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    softened = ([log_softmax(side.astype("float64") / t) for side in (logits, stored)] for t in TEMPERATURES)
    return np.stack([np.maximum((np.exp(p) * (p - q)).sum(-1), 0) for p, q in softened])
