"""Loads weights from a file into the layers that it has, with a report, and reads the normalization of a network."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.networks.file_checks import check_archive
from kd_keras.networks.preprocessing import PixelStatistics
from kd_keras.networks.weight_files import StoredLayer, explain_read_errors, number_from_zero, open_layers
from kd_keras.private_api import automatic_name, inner_layers, own_variables


class Loaded(NamedTuple):
    """The report on loading a file, layer by layer; `str()` makes it a text.

    Attributes:
        loaded: layers that received the file's weights.
        mismatched: layers whose shapes differ from those in the file, with the difference; they are unchanged.
        missing: layers that the file does not have; they are unchanged.
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
    """Loads the weights that a `.keras`, `.weights.h5` or legacy `.h5` file has for the layers of a model.

    Layers are matched by their paths, such as `"backbone/conv1"`, or else by the last name in the path if exactly one
    layer of the model and one of the file have it. So a backbone may be nested in a model and alone in the file, or the
    reverse. A layer of another shape, such as a classifier of other classes, and a layer that the file does not have
    are unchanged.

    Args:
        model: a built model.
        path: the file.

    Raises:
        ValueError: if the file does not exist, is not a Keras file, has no layer that fits, has values that are not
            finite, refers to other files, or is far smaller than what it unpacks to.

    >>> import tempfile
    >>> whole = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")])
    >>> other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(5, name="b")])
    >>> file = tempfile.mkdtemp() + "/some.weights.h5"
    >>> whole.save_weights(file)
    >>> load_weights(other, file).loaded
    ['a']
    """
    layers: dict[str, keras.layers.Layer] = {}
    numbered: dict[str, str] = {}
    for name, number, layer in _walk_layers(model, "", ""):
        layers[name], numbered[name] = layer, number
    with open_layers(Path(path)) as stored:
        sources = _match_all(numbered, stored, layers)
        report = Loaded([], {}, [name for name in layers if sources[name] is None], [])
        report.skipped.extend(name for name in stored if name not in sources.values())
        values: dict[str, dict[str, np.ndarray]] = {}
        for name, source in sources.items():
            if source is None:
                continue
            difference = _difference(layers[name], stored[source].variables)
            if difference:  # compared before anything is read, because a file may declare any shape
                report.mismatched[name] = difference
            else:
                values[name] = stored[source].values()
                _check_finite(path, source, values[name])
        for name, variables in values.items():  # after all checks, so that a rejected file changes nothing
            layers[name].load_own_variables(variables)
            report.loaded.append(name)
    if not report.loaded:
        received = f"{len(stored)} layers of other names or shapes: {_list_some(stored)}"
        advice = "choose the file of a network with the same layer names and shapes"
        raise ValueError(explain_mismatch(f"weights for {_list_some(layers)} in {path}", received, advice))
    return report


def pixel_statistics(network: str | os.PathLike | keras.Model) -> PixelStatistics | None:
    """The mean and the standard deviation of pixels by which the first layer of a network normalizes images.

    Args:
        network: a `.keras` file, or a model.

    Returns:
        The constants of the Normalization layer that reads the image; `None` if another layer reads the image, or for a
        `.weights.h5` file, which has no layers.

    Raises:
        ValueError: if the file does not exist or is not a Keras file.

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
    with explain_read_errors(path), zipfile.ZipFile(path) as archive:
        check_archive(path, archive)
        return _normalization_in(json.loads(archive.read("config.json"))["config"])


def _check_finite(path: str | os.PathLike, layer: str, values: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if a layer in a file has NaN or infinity, as after a training that diverged."""
    for name, value in values.items():
        if value.dtype.kind in "fV" and not np.isfinite(value).all():  # V is that of bfloat16
            count = int(np.sum(~np.isfinite(value)))
            received = f"{count} of {value.size} that are NaN or infinite in variable {name} of layer {layer!r}"
            advice = "use an earlier checkpoint of that training"
            raise ValueError(explain_mismatch(f"finite weights in {path}", received, advice))


def _list_some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most] + ["..."] * (len(names) > most))


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
    if layers is None:  # a subclassed model that contains another one
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


def _walk_layers(layer: keras.layers.Layer, path: str, numbered: str) -> Iterator[tuple[str, str, keras.layers.Layer]]:
    """Yields the path, the path with names numbered from 0, and the layer, for inner layers that have variables."""
    inside = inner_layers(layer)
    numbers = number_from_zero([(automatic_name(inner), inner.name) for inner in inside])
    for inner, number in zip(inside, numbers, strict=True):
        below, numbered_below = f"{path}/{inner.name}".lstrip("/"), f"{numbered}/{number}".lstrip("/")
        if own_variables(inner):
            yield below, numbered_below, inner
        yield from _walk_layers(inner, below, numbered_below)


def _match_all(
    numbered: Mapping[str, str], stored: Mapping[str, StoredLayer], layers: Mapping[str, keras.layers.Layer]
) -> dict[str, str | None]:
    """The path of the source in the file, or `None`, by the path of each layer of the model.

    Automatic names may agree by chance. Layers are matched by names and by names numbered from 0; the matching in which
    more shapes agree is used.

    Args:
        numbered: the path with names numbered from 0, by the path of each layer of the model.
        stored: the layers of the file.
        layers: the layers of the model.
    """
    by_name = {name: _match(name, stored, numbered) for name in numbered}
    in_the_file = {layer.numbered: name for name, layer in stored.items()}
    in_the_model = {number: name for name, number in numbered.items()}
    matches = {name: _match(number, in_the_file, in_the_model) for number, name in in_the_model.items()}
    by_number = {name: None if source is None else in_the_file[source] for name, source in matches.items()}
    is_by_name = stored.keys() <= numbered.keys() or numbered.keys() <= stored.keys()
    choices = [by_name, by_number] if is_by_name else [by_number, by_name]
    return max(choices, key=lambda choice: _count_fitting(layers, stored, choice))


def _count_fitting(
    layers: Mapping[str, keras.layers.Layer], stored: Mapping[str, StoredLayer], matching: Mapping[str, str | None]
) -> int:
    """How many layers have the shapes of their sources."""
    pairs = [(layers[name], stored[source]) for name, source in matching.items() if source is not None]
    return sum(not _difference(layer, source.variables) for layer, source in pairs)


def _match(name: str, stored: Mapping[str, Any], layers: Mapping[str, Any]) -> str | None:
    """The path in the file for a layer of the model, or `None` if the file has none that matches."""
    if name in stored:
        return name
    end = name.rsplit("/", 1)[-1]
    in_the_file = [path for path in stored if path.rsplit("/", 1)[-1] == end]
    in_the_model = [path for path in layers if path.rsplit("/", 1)[-1] == end]
    return in_the_file[0] if len(in_the_file) == len(in_the_model) == 1 else None


def _difference(layer: keras.layers.Layer, stored: Mapping[str, Any]) -> str:
    """How the shapes in the file differ from a layer's, or an empty text."""
    in_the_model = [tuple(variable.shape) for variable in own_variables(layer)]
    in_the_file = [stored[key].shape for key in sorted(stored, key=lambda key: (len(key), key))]
    return "" if in_the_model == in_the_file else f"{in_the_file} in the file, {in_the_model} in the model"
