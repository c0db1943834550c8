"""Weights from a file, for all layers of a model or for those that the file has, with a report; and the normalization
of a saved network."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.networks.preprocessing import PixelStatistics
from kd_keras.networks.weight_files import StoredLayer, explained, number_from_zero, read_layers
from kd_keras.private_api import automatic_name, inner_layers, own_variables


class Loaded(NamedTuple):
    """The result of loading a file, layer by layer; its text is the report.

    Attributes:
        loaded: layers that have the file's weights now.
        mismatched: layers whose shapes differ from those in the file, and how; they are not changed.
        missing: layers that the file does not have; they are not changed.
        skipped: layers of the file that the model does not have.
    """

    loaded: list[str]
    mismatched: dict[str, str]
    missing: list[str]
    skipped: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} layers loaded"]
        lines += [f"not loaded, of another shape: {name}, {difference}" for name, difference in self.mismatched.items()]
        lines += [f"not loaded, not in the file: {name}" for name in self.missing]
        lines += [f"in the file, not in the model: {name}" for name in self.skipped]
        return "\n".join(lines)


def load_weights(model: keras.Model, path: str | os.PathLike) -> Loaded:
    """Loads the weights that a `.keras` or `.weights.h5` file has for the layers of a model.

    Layers are matched by their paths of names, `"backbone/conv1"`. If only one layer of the model and one of the file
    have the same last name, they are matched by it: a backbone may be alone in one of the two and nested in the other.
    A classifier of other classes is not changed, nor is any layer that the file does not have.

    Args:
        model: a built model.
        path: the file.

    Raises:
        ValueError: if there is no such file, if it is no Keras file, or if none of its layers fits.

    >>> import tempfile
    >>> whole = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")])
    >>> other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(5, name="b")])
    >>> file = tempfile.mkdtemp() + "/some.weights.h5"
    >>> whole.save_weights(file)
    >>> load_weights(other, file).loaded
    ['a']
    """
    stored, numbered = read_layers(Path(path)), {}
    layers: dict[str, keras.layers.Layer] = {}
    for name, number, layer in _layers(model, "", ""):
        layers[name], numbered[name] = layer, number
    sources = _match_all(numbered, stored)
    report = Loaded([], {}, [name for name in layers if sources[name] is None], [])
    report.skipped.extend(name for name in stored if name not in sources.values())
    for name, source in sources.items():
        if source is None:
            continue
        difference = _difference(layers[name], stored[source].variables)
        if difference:
            report.mismatched[name] = difference
        else:
            layers[name].load_own_variables(stored[source].variables)
            report.loaded.append(name)
    if not report.loaded:
        received = f"{len(stored)} layers of other names or shapes: {', '.join(list(stored)[:4])}, ..."
        raise ValueError(explain_mismatch(f"weights for {', '.join(list(layers)[:4])}, ... in {path}", received))
    return report


def pixel_statistics(network: str | os.PathLike | keras.Model) -> PixelStatistics | None:
    """The normalization with which a network starts: mean and standard deviation of the pixels that it was trained on.

    Args:
        network: a `.keras` file, or a model.

    Returns:
        The constants of the Normalization layer that reads the image; `None` if another layer reads the image, or for a
        `.weights.h5` file, which has no layers.

    Raises:
        ValueError: if there is no such file, or if it is no Keras file.

    >>> image = keras.Input((8, 8, 3), name="image")
    >>> normalized = keras.layers.Normalization(mean=[100.0], variance=[2500.0])(image)
    >>> pixel_statistics(keras.Model(image, normalized))
    PixelStatistics(mean=(100.0,), std=(50.0,))
    """
    if isinstance(network, keras.Model):
        try:
            return _normalization_in(network.get_config())
        except NotImplementedError:  # a subclassed model that cannot be saved
            return None
    path = Path(network)
    if path.suffix != ".keras":
        return None
    with explained(path), zipfile.ZipFile(path) as archive:
        return _normalization_in(json.loads(archive.read("config.json"))["config"])


def _normalization_in(config: Mapping[str, Any]) -> PixelStatistics | None:
    """The constants of the Normalization that reads the image, from the configuration of a model."""
    first = _first_layer(config)
    if first is None:
        return None
    options = first["config"]
    if first["class_name"] != "Normalization":
        return _normalization_in(options)
    if options.get("mean") is None or options.get("invert"):
        return None
    mean, variance = (_as_tuple(options[key]) for key in ("mean", "variance"))
    return PixelStatistics(mean, tuple(math.sqrt(value) for value in variance))


def _first_layer(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The configuration of the one layer or nested model that reads the input of a model."""
    layers = config.get("layers")
    if layers is None:  # a subclassed model around another one
        models = [
            value for value in config.values() if isinstance(value, Mapping) and "layers" in value.get("config", ())
        ]
        return models[0] if len(models) == 1 else None
    inputs = {layer["config"]["name"] for layer in layers if layer["class_name"] == "InputLayer"}
    if all("inbound_nodes" not in layer for layer in layers):  # a Sequential model
        readers = [layer for layer in layers if layer["class_name"] != "InputLayer"][:1]
    else:
        readers = [layer for layer in layers if inputs & set(_sources(layer.get("inbound_nodes", ())))]
    return readers[0] if len(readers) == 1 else None


def _sources(nodes: Any) -> Iterator[str]:
    """The names of the layers whose outputs a layer reads, from its configuration."""
    if isinstance(nodes, Mapping):
        if "keras_history" in nodes:
            yield nodes["keras_history"][0]
        yield from _sources(list(nodes.values()))
    elif isinstance(nodes, (list, tuple)):
        for node in nodes:
            yield from _sources(node)


def _as_tuple(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in np.ravel(values))


def _layers(layer: keras.layers.Layer, path: str, numbered: str) -> Iterator[tuple[str, str, keras.layers.Layer]]:
    """Every layer inside that has variables itself, after its path of names and the path with names numbered from 0."""
    inside = inner_layers(layer)
    numbers = number_from_zero([(automatic_name(inner), inner.name) for inner in inside])
    for inner, number in zip(inside, numbers, strict=True):
        below, numbered_below = f"{path}/{inner.name}".lstrip("/"), f"{numbered}/{number}".lstrip("/")
        if own_variables(inner):
            yield below, numbered_below, inner
        yield from _layers(inner, below, numbered_below)


def _match_all(numbered: Mapping[str, str], stored: Mapping[str, StoredLayer]) -> dict[str, str | None]:
    """For the path of each layer of the model the path of its source in the file.

    Args:
        numbered: by the path of each layer of the model, the path with names numbered from 0.
        stored: the layers of the file.
    """
    if stored.keys() <= numbered.keys() or numbered.keys() <= stored.keys():
        return {name: _match(name, stored, numbered) for name in numbered}
    in_the_file = {layer.numbered: name for name, layer in stored.items()}
    in_the_model = {number: name for name, number in numbered.items()}
    matches = {name: _match(number, in_the_file, in_the_model) for number, name in in_the_model.items()}
    return {name: None if source is None else in_the_file[source] for name, source in matches.items()}


def _match(name: str, stored: Mapping[str, Any], layers: Mapping[str, Any]) -> str | None:
    """The path in the file of a layer of the model."""
    if name in stored:
        return name
    end = name.rsplit("/", 1)[-1]
    in_the_file = [path for path in stored if path.rsplit("/", 1)[-1] == end]
    in_the_model = [path for path in layers if path.rsplit("/", 1)[-1] == end]
    return in_the_file[0] if len(in_the_file) == len(in_the_model) == 1 else None


def _difference(layer: keras.layers.Layer, stored: Mapping[str, np.ndarray]) -> str:
    """How the shapes in the file differ from a layer's, or an empty text."""
    in_the_model = [tuple(variable.shape) for variable in own_variables(layer)]
    in_the_file = [stored[key].shape for key in sorted(stored, key=lambda key: (len(key), key))]
    return "" if in_the_model == in_the_file else f"{in_the_file} in the file, {in_the_model} in the model"
