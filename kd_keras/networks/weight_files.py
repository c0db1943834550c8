"""Reads the weights in a `.keras` or `.weights.h5` file, and names layers in the same way in every file.

Keras names a layer that has no name by its class and a number that counts through the whole process: the first
convolution of a network is "conv2d" in one program and "conv2d_94" in another.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import ml_dtypes
import numpy as np

from kd_keras.errors import explain_mismatch


class StoredLayer(NamedTuple):
    """A layer with variables in a file.

    Attributes:
        numbered: its path of names, of which those that Keras gave are numbered from 0 within their model.
        variables: its variables by their number.
    """

    numbered: str
    variables: dict[str, np.ndarray]


def read_layers(path: Path) -> dict[str, StoredLayer]:
    """The layers with variables in a file, by their paths of names.

    Raises:
        ValueError: if there is no such file, or if it is no Keras file.
    """
    with explained(path), _opened(path) as file:
        return dict(_stored(file, "", ""))


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the errors of reading a file into a ValueError that names it."""
    if not path.exists():
        raise ValueError(explain_mismatch("a .keras or .weights.h5 file", f"{path}, which does not exist"))
    try:
        yield
    except (OSError, KeyError, json.JSONDecodeError, zipfile.BadZipFile) as error:
        received = f"one that cannot be read: {type(error).__name__}: {error}"
        raise ValueError(explain_mismatch(f"a whole .keras or .weights.h5 file at {path}", received)) from error


def number_from_zero(layers: Sequence[tuple[str, str]]) -> list[str]:
    """The names of the layers of one model, those that Keras gave numbered from 0 in the order in which it gave them.

    Args:
        layers: of each layer its class as Keras spells it in names, and its name.

    >>> number_from_zero([("conv2d", "conv2d_94"), ("conv2d", "stem"), ("conv2d", "conv2d_95"), ("dense", "dense")])
    ['conv2d', 'stem', 'conv2d_1', 'dense']
    """
    numbers = [re.fullmatch(rf"{re.escape(kind)}(?:_(\d+))?", name) for kind, name in layers]
    given = defaultdict(list)
    for (kind, _), match in zip(layers, numbers, strict=True):
        if match:
            given[kind].append(int(match[1] or 0))
    places = {kind: {number: place for place, number in enumerate(sorted(found))} for kind, found in given.items()}
    return [
        f"{kind}_{places[kind][int(match[1] or 0)]}".removesuffix("_0") if match else name
        for (kind, name), match in zip(layers, numbers, strict=True)
    ]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            yield file["layers"]  # and not the optimizer, which is stored next to it
    else:
        with h5py.File(path) as file:
            yield file["layers"]


def _stored(group: h5py.Group, path: str, numbered: str) -> Iterator[tuple[str, StoredLayer]]:
    """Every layer with variables below a group; Keras writes a layer's name to its variables."""
    groups = {key: inner for key, inner in group.items() if isinstance(inner, h5py.Group)}
    names = {key: inner["vars"].attrs.get("name", "") if "vars" in inner else "" for key, inner in groups.items()}
    # The name of a group is the class of the layer, with a number from the second layer of that class on.
    fresh = number_from_zero([(re.sub(r"_\d+$", "", key), name) for key, name in names.items()])
    for (key, inner), number in zip(groups.items(), fresh, strict=True):
        below, numbered_below = f"{path}/{names[key]}".strip("/"), f"{numbered}/{number}".strip("/")
        variables = inner.get("vars", {})
        if len(variables):
            yield below, StoredLayer(numbered_below, {name: _array(value) for name, value in variables.items()})
        yield from _stored(inner, below, numbered_below)


def _array(value: h5py.Dataset) -> np.ndarray:
    """A variable's value; HDF5 has no bfloat16, which Keras notes in an attribute."""
    return np.array(value, dtype=ml_dtypes.bfloat16 if value.attrs.get("dtype") == "bfloat16" else None)
