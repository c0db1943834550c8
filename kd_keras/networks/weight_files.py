"""Reads the weights in a `.keras`, `.weights.h5` or `.h5` file, and names layers in the same way in every file.

Keras names a layer without a name by its class and a number that counts over the whole process: the first convolution
of a network is "conv2d" in one program and "conv2d_94" in another.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import ml_dtypes
import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.networks.file_checks import check_archive, check_hdf5
from kd_keras.private_api import automatic_names

READ_ERRORS = (  # of the archive, of HDF5 and of JSON
    OSError, KeyError, TypeError, AttributeError, RuntimeError, EOFError, MemoryError, UnicodeDecodeError,
    json.JSONDecodeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class StoredLayer(NamedTuple):
    """A layer with variables in a file.

    Attributes:
        numbered: its path, in which names by Keras are numbered from 0 within their model.
        variables: its variables by their number, which are still in the file.
    """

    numbered: str
    variables: dict[str, h5py.Dataset]

    def values(self) -> dict[str, np.ndarray]:
        """Reads the variables."""
        return {name: _array(value) for name, value in self.variables.items()}


@contextlib.contextmanager
def open_layers(path: Path) -> Iterator[dict[str, StoredLayer]]:
    """The layers with variables in a file, by their paths; their values can be read within the context.

    Raises:
        ValueError: if the file does not exist, is not a Keras file, refers to other files, or is far smaller than what
            it unpacks to.
    """
    with explain_read_errors(path), _open(path) as file:
        legacy = file.get("model_weights", file)  # a file of a whole model has its weights there
        if _has_names(legacy, "layer_names"):
            yield dict(_walk_legacy(legacy))
        else:
            yield dict(_walk_stored(file["layers"], "", ""))  # the optimizer's variables are stored next to it


def check_model_file(path: Path) -> None:
    """Checks a file of a whole model before Keras loads it.

    Raises:
        ValueError: if it does not exist, is not complete, refers to other files, or is far smaller than what it unpacks
            to.
    """
    with explain_read_errors(path), _open(path):
        pass


@contextlib.contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turns the errors of reading a file into a ValueError that names it."""
    if not path.is_file():
        reason = "is not a file" if path.exists() else "does not exist"
        raise ValueError(explain_mismatch("a .keras or .weights.h5 file", f"{path}, which {reason}"))
    try:
        yield
    except READ_ERRORS as error:
        expected = f"a complete .keras or .weights.h5 file at {path}"
        received = f"one that is damaged or not a model file ({type(error).__name__}: {error})"
        raise ValueError(explain_mismatch(expected, received, "save the network again")) from error


def number_from_zero(layers: Sequence[tuple[str, str]]) -> list[str]:
    """The names of the layers of one model, in which names by Keras are numbered from 0 in their original order.

    Args:
        layers: the class, as Keras spells it in names, and the name of each layer.

    >>> number_from_zero([("conv2d", "conv2d_94"), ("conv2d", "stem"), ("conv2d", "conv2d_95"), ("dense", "dense")])
    ['conv2d', 'stem', 'conv2d_1', 'dense']
    """
    numbers = [re.fullmatch(rf"{re.escape(kind)}(?:_(\d+))?", name) for kind, name in layers]
    numbers_of_kind: dict[str, list[int]] = defaultdict(list)
    for (kind, _), match in zip(layers, numbers, strict=True):
        if match:
            numbers_of_kind[kind].append(int(match[1] or 0))
    indices = {kind: {number: index for index, number in enumerate(sorted(n))} for kind, n in numbers_of_kind.items()}
    return [
        f"{kind}_{indices[kind][int(match[1] or 0)]}".removesuffix("_0") if match else name
        for (kind, name), match in zip(layers, numbers, strict=True)
    ]


@contextlib.contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """Opens the HDF5 file of the weights, and checks it before anything in it is read."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
            with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
                check_hdf5(path, file)
                yield file
    else:
        with h5py.File(path) as file:
            check_hdf5(path, file)
            yield file


def _walk_stored(group: h5py.Group, path: str, numbered: str) -> Iterator[tuple[str, StoredLayer]]:
    """Yields the path and the layer for every layer with variables; Keras stores a layer's name with its variables."""
    groups = {key: inner for key, inner in group.items() if isinstance(inner, h5py.Group)}
    names = {key: inner["vars"].attrs.get("name", "") if "vars" in inner else "" for key, inner in groups.items()}
    # The name of a group is the class of the layer, with a number from the second layer of that class on.
    fresh = number_from_zero([(re.sub(r"_\d+$", "", key), name) for key, name in names.items()])
    for (key, inner), number in zip(groups.items(), fresh, strict=True):
        below, numbered_below = f"{path}/{names[key]}".strip("/"), f"{numbered}/{number}".strip("/")
        variables = inner.get("vars", {})
        if len(variables):
            yield below, StoredLayer(numbered_below, dict(variables.items()))
        yield from _walk_stored(inner, below, numbered_below)


def _walk_legacy(file: h5py.Group) -> Iterator[tuple[str, StoredLayer]]:
    """Yields the path and the layer for every layer with variables of a legacy `.h5` file, as Keras downloads them.

    A layer of such a file has the values of all its variables in order; the names of those of layers inside it start
    with the paths of these layers.
    """
    owners: dict[str, list[h5py.Dataset]] = defaultdict(list)
    for layer in _names(file, "layer_names"):
        names = _names(file[layer], "weight_names")
        folders = [name.rpartition("/")[0] for name in names]
        for name, folder in zip(names, folders, strict=True):
            is_inside = folder.startswith(f"{layer}/") or (len(set(folders)) > 1 and folder != layer)
            path = layer.replace("/", "_")  # Keras has replaced the slashes that names of layers once had
            owners[f"{path}/{folder.removeprefix(f'{layer}/')}" if is_inside else path].append(file[layer][name])
    numbered = _number_paths(list(owners))
    for path, variables in owners.items():
        yield path, StoredLayer(numbered[path], {str(index): value for index, value in enumerate(variables)})


def _number_paths(paths: Sequence[str]) -> dict[str, str]:
    """The paths with names by Keras numbered from 0 within each parent, for a file without the classes of layers.

    >>> _number_paths(["conv2d_7", "inner/conv2d_5", "inner/conv2d_6"])["inner/conv2d_6"]
    'inner/conv2d_1'
    """
    kinds = automatic_names()
    siblings: dict[str, dict[str, None]] = defaultdict(dict)
    for path in paths:
        names = path.split("/")
        for depth, name in enumerate(names):
            siblings["/".join(names[:depth])][name] = None
    numbered = {"": ""}
    for parent, inside in siblings.items():  # a parent comes before what is in it
        named = [(kind if (kind := re.sub(r"_\d+$", "", name)) in kinds else "", name) for name in inside]
        for name, number in zip(inside, number_from_zero(named), strict=True):
            numbered[f"{parent}/{name}".strip("/")] = f"{numbered[parent]}/{number}".strip("/")
    return numbered


def _has_names(group: h5py.Group, attribute: str) -> bool:
    return attribute in group.attrs or f"{attribute}0" in group.attrs


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """The names in an attribute, which Keras divides into several numbered ones if there are many."""
    numbered = itertools.takewhile(group.attrs.__contains__, (f"{attribute}{number}" for number in itertools.count()))
    parts = [attribute] if attribute in group.attrs else list(numbered)
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in group.attrs[part]]


def _array(value: h5py.Dataset) -> np.ndarray:
    """A variable's value; HDF5 has no bfloat16, so Keras notes it in an attribute."""
    return np.array(value, dtype=ml_dtypes.bfloat16 if value.attrs.get("dtype") == "bfloat16" else None)
