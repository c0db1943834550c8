"""The form of a teacher's outputs on disk: one record an example, all of one length.

A record holds the example's number and the columns of its taps, one after the other, as plain little-endian values. Of
logits kept as `"top-<k>"` it has the k largest as float16, their classes, and the logarithm of the sum of the
exponentials of the rest: at temperature 1 the k classes have the teacher's probabilities, and the others share what
remains evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd_keras.contracts import TapSpec
from kd_keras.errors import explain_mismatch

FORMS = ("float32", "float16", "top-<k>")
LARGEST = float(np.finfo("float16").max)
TEMPERATURES = (1, 4)  # at which the error of what is kept is stated


def columns(specs: Mapping[str, Any]) -> Iterator[tuple[str, str, TapSpec]]:
    """The tensors of some taps: the tap, the column's name and the specification; stages have a column each."""
    for tap, spec in specs.items():
        for number, one in enumerate(spec if isinstance(spec, list) else [spec]):
            yield tap, f"{tap}/{number}", one


def record_type(specs: Mapping[str, Any], logits: str) -> np.dtype:
    """The layout of one record.

    Args:
        specs: what the taps deliver, `(None, ...)` each; sizes must be known.
        logits: how logits are kept, one of `FORMS`; every other tap is kept as float16.

    Raises:
        ValueError: for an unknown form, a k outside 1..K-1, or a tap of unknown size.

    >>> record_type({"logits": TapSpec("head", (None, 10))}, "top-3").itemsize
    24
    """
    fields: list[tuple] = [("index", "<i8")]
    for tap, column, spec in columns(specs):
        shape = tuple(spec.shape[1:])
        if None in shape:
            raise ValueError(explain_mismatch("taps of a known size, to record them", f"{tap!r}, {spec.layer!r} {spec.shape}"))
        k = kept_classes(logits) if tap == "logits" else None
        if k is None:
            fields.append((column, f"<f{2 if tap != 'logits' or logits == 'float16' else 4}", shape))
            continue
        if not 1 <= k < shape[-1]:
            raise ValueError(explain_mismatch(f"top-<k> with k of 1 to {shape[-1] - 1}, below the classes", logits))
        number = "<u2" if shape[-1] <= 2**16 else "<i4"
        fields += [(f"{column}:classes", number, (*shape[:-1], k)), (f"{column}:values", "<f2", (*shape[:-1], k))]
        fields.append((f"{column}:rest", "<f4", shape[:-1]))
    return np.dtype(fields)


def kept_classes(logits: str) -> int | None:
    """The k of `"top-<k>"`, or `None` where all classes are kept.

    Raises:
        ValueError: for a form that there is not.
    """
    if logits in FORMS[:2]:
        return None
    if not (isinstance(logits, str) and logits.startswith("top-") and logits[4:].isdigit()):
        raise ValueError(explain_mismatch(f"logits kept as one of {', '.join(FORMS)}", repr(logits), "for instance top-16"))
    return int(logits[4:])


def decode(records: np.ndarray, specs: Mapping[str, Any]) -> list[np.ndarray]:
    """The taps of some records in the order of `columns`, `(B, ...)` float32 each.

    Where the largest k logits were kept, the others share the remaining mass evenly.
    """
    return [_column(records, column, spec) for _, column, spec in columns(specs)]


def _column(records: np.ndarray, column: str, spec: TapSpec) -> np.ndarray:
    if column in records.dtype.names:
        return records[column].astype("float32")
    classes, values = records[f"{column}:classes"], records[f"{column}:values"]
    others = spec.shape[-1] - classes.shape[-1]
    full = np.repeat(records[f"{column}:rest"][..., None] - np.float32(np.log(others)), spec.shape[-1], axis=-1)
    np.put_along_axis(full, classes.astype("int64"), values.astype("float32"), axis=-1)
    return full


def encode(outputs: Mapping[str, Any], index: np.ndarray, specs: Mapping[str, Any], logits: str) -> np.ndarray:
    """Records of a batch of outputs, `(B,)` of `record_type`.

    Args:
        outputs: the taps, tensors `(B, ...)` or for stages lists of them.
        index: `(B,)` example numbers.
        specs: what the taps deliver.
        logits: how logits are kept.

    Raises:
        ValueError: where a value is not finite, or too large for float16.

    >>> specs = {"logits": TapSpec("head", (None, 3))}
    >>> encoded({"logits": np.array([[1.0, 5.0, 2.0]])}, np.array([7]), specs, "top-1")["logits/0:values"].item()
    5.0
    """
    records = np.zeros(len(index), record_type(specs, logits))
    records["index"] = index
    for tap, column, _ in columns(specs):
        values = np.asarray(_column_of(outputs, tap, column), "float32")
        if not np.isfinite(values).all():
            raise ValueError(explain_mismatch("a teacher with finite outputs", f"NaN or infinity in {column}", "retrain it"))
        largest = np.abs(values).max(initial=0)
        if largest > LARGEST and (column not in records.dtype.names or records.dtype[column].base.itemsize == 2):
            remedy = 'logits="float32", or another tap, such as one after a normalisation'
            needed = f"values up to {LARGEST:,.0f}, to keep {column} as float16"
            raise ValueError(explain_mismatch(needed, f"{largest:,.0f}", remedy))
        if column in records.dtype.names:
            records[column] = values
            continue
        for name, kept in zip(("classes", "values", "rest"), _largest(values, kept_classes(logits))):
            records[f"{column}:{name}"] = kept
    return records


def _column_of(outputs: Mapping[str, Any], tap: str, column: str) -> Any:
    values = outputs[tap]
    return values[int(column.rsplit("/", 1)[1])] if isinstance(values, (list, tuple)) else values


def _largest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The classes and values of the k largest, `(..., k)`, and the log-sum-exp of the others `(...)`."""
    order = np.argsort(-values, axis=-1, kind="stable")
    sorted_values = np.take_along_axis(values, order, axis=-1)
    others = sorted_values[..., k:].astype("float64")
    top = others[..., :1]
    rest = top[..., 0] + np.log(np.exp(others - top).sum(-1))
    return order[..., :k], sorted_values[..., :k], rest


def divergence(logits: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """KL(teacher || what was kept of it), in nats: `(T, ...)` at each of `TEMPERATURES`.

    >>> divergence(np.zeros((1, 4)), np.zeros((1, 4))).tolist()
    [[0.0], [0.0]]
    """
    def log_softmax(values: np.ndarray) -> np.ndarray:
        shifted = values - values.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    softened = ([log_softmax(side.astype("float64") / t) for side in (logits, kept)] for t in TEMPERATURES)
    return np.stack([np.maximum((np.exp(p) * (p - q)).sum(-1), 0) for p, q in softened])
