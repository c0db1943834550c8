"""Weights from a file, for a whole model or for what of it the file holds, with a report."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import keras
import ml_dtypes
import numpy as np

from kd_keras.errors import explain_mismatch


class Loaded(NamedTuple):
    """What came of loading a file, layer by layer; its text is the report.

    Attributes:
        loaded: layers that have the file's weights now.
        mismatched: layers whose shapes in the file are others, and why; left as they were.
        missing: layers that the file does not have; left as they were.
        skipped: layers of the file that the model does not have.
    """

    loaded: list[str]
    mismatched: dict[str, str]
    missing: list[str]
    skipped: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} layers loaded"]
        lines += [f"not loaded, of another shape: {name}, {why}" for name, why in self.mismatched.items()]
        lines += [f"not loaded, not in the file: {name}" for name in self.missing]
        lines += [f"in the file, not in the model: {name}" for name in self.skipped]
        return "\n".join(lines)


def load_weights(model: keras.Model, path: str | Path) -> Loaded:
    """Loads what a `.keras` or `.weights.h5` file holds for the layers of a model.

    Layers are found by their path of names, `"backbone/conv1"`, or where only one layer of each side ends alike, by
    that end: a backbone may be alone in one of the two and nested in the other. A classifier of other classes stays
    as it is, and so does every layer that the file does not have.

    Args:
        model: a built model.
        path: the file.

    Raises:
        ValueError: where there is no such file, it is no Keras file, or nothing of it fits.

    >>> import tempfile
    >>> whole = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")])
    >>> other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(5, name="b")])
    >>> file = tempfile.mkdtemp() + "/some.weights.h5"
    >>> whole.save_weights(file)
    >>> load_weights(other, file).loaded
    ['a']
    """
    stored = _read(Path(path))
    layers = dict(_layers(model, ""))
    found = {name: _match(name, stored, layers) for name in layers}
    report = Loaded([], {}, [name for name in layers if found[name] is None], [])
    report.skipped.extend(name for name in stored if name not in found.values())
    for name, source in found.items():
        if source is None:
            continue
        differs = _difference(layers[name], stored[source])
        if differs:
            report.mismatched[name] = differs
        else:
            layers[name].load_own_variables(stored[source])
            report.loaded.append(name)
    if not report.loaded:
        came = f"{len(stored)} layers of other names or shapes: {', '.join(list(stored)[:4])}, ..."
        raise ValueError(explain_mismatch(f"weights for {', '.join(list(layers)[:4])}, ... in {path}", came))
    return report


def _read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The variables of each layer in a file, by the layer's path."""
    if not path.exists():
        raise ValueError(explain_mismatch("a .keras or .weights.h5 file", f"{path}, which does not exist"))
    try:
        with _opened(path) as file:
            return dict(_stored(file, ""))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        came = f"{type(error).__name__}: {error}"
        raise ValueError(explain_mismatch(f"a whole .keras or .weights.h5 file at {path}", came)) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            yield file["layers"]  # beside it there is the optimizer
    else:
        with h5py.File(path) as file:
            yield file["layers"]


def _stored(group: h5py.Group, path: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Every layer with variables below a group; with a layer's variables Keras writes its name."""
    for inner in group.values():
        if not isinstance(inner, h5py.Group):
            continue
        variables = inner.get("vars", {})
        name = variables.attrs.get("name", "") if variables else ""
        below = f"{path}/{name}".strip("/")
        if len(variables):
            yield below, {key: _array(value) for key, value in variables.items()}
        yield from _stored(inner, below)


def _array(value: h5py.Dataset) -> np.ndarray:
    """A variable's value; HDF5 has no bfloat16, of which Keras makes a note."""
    return np.array(value, dtype=ml_dtypes.bfloat16 if value.attrs.get("dtype") == "bfloat16" else None)


def _layers(layer: keras.layers.Layer, path: str) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer below with variables of its own, by its path of names."""
    for inner in layer._layers:
        name = f"{path}/{inner.name}".lstrip("/")
        if inner._trainable_variables or inner._non_trainable_variables:
            yield name, inner
        yield from _layers(inner, name)


def _match(name: str, stored: dict, layers: dict) -> str | None:
    """The path in the file of a layer of the model."""
    if name in stored:
        return name
    end = name.rsplit("/", 1)[-1]
    there = [other for other in stored if other.rsplit("/", 1)[-1] == end]
    here = [other for other in layers if other.rsplit("/", 1)[-1] == end]
    return there[0] if len(there) == len(here) == 1 else None


def _difference(layer: keras.layers.Layer, stored: dict[str, np.ndarray]) -> str:
    """How the shapes in the file differ from a layer's, or nothing."""
    shapes = [tuple(variable.shape) for variable in (*layer._trainable_variables, *layer._non_trainable_variables)]
    theirs = [stored[key].shape for key in sorted(stored, key=lambda key: (len(key), key))]
    return "" if shapes == theirs else f"{theirs} in the file, {shapes} in the model"
