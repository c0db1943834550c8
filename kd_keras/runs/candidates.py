"""Loads trained networks for evaluations and exports, with what their runs recorded."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from kd_keras.data import Source
from kd_keras.data.shared_examples import warn_of_shared
from kd_keras.evaluation.cost import saved_kilobytes
from kd_keras.evaluation.evaluator import Candidate
from kd_keras.networks.embedding_networks import ends_in_embedding
from kd_keras.runs.recipe import Data, Recipe
from kd_keras.runs.run import Run, Trained, advise_on_path, find_run, load_network, recorded_data
from kd_keras.runs.sources import check_class_names, check_ignored, open_source
from kd_keras.tasks import Task, find_task

Network: TypeAlias = Trained


def load_candidate(source: Network, name: str, data_dir: str | None = None) -> Candidate:
    """Loads a network with what its run recorded.

    Raises:
        ValueError: if it does not exist or is damaged, or has no classifier.
    """
    network = load_network(source)
    check_has_head(network, name)
    run = find_run(source)
    return Candidate(
        name,
        network,
        class_names=recorded_data(source).get("class_names"),
        kilobytes=_kilobytes(source, network),
        training_images=None if run is None else lambda: training_images(run, data_dir),
    )


def check_has_head(network: keras.Model, name: str) -> None:
    """Raises a ValueError if a network is only pretrained, so that it returns embeddings and no predictions."""
    if ends_in_embedding(network):
        raise ValueError(
            f"Expected a network with a classifier, but {name} is pretrained without labels and returns embeddings "
            f"{network.output_shape}. Fine-tune it first, with train(model=...)."
        )


def training_images(run: Run, data_dir: str | None = None) -> Source:
    """The images that a run was trained on, without augmentation.

    Raises:
        ValueError: if its settings do not name them.
    """
    if "data" not in run.settings:
        raise ValueError(
            f"Run {run.path} must name its training images, but its settings do not, because they were passed as a "
            "Python object."
        )
    recorded = Recipe.from_settings(run.settings)
    directory = data_dir or recorded.data_dir
    task = find_task(recorded.task, recorded.data, directory, recorded.download_timeout)
    train = open_source(recorded.data, recorded.train_split, directory, task=task, **recorded.reading)
    return train.without(recorded.without_classes) if recorded.without_classes else train


def evaluation_settings(source: Network) -> dict[str, Any]:
    """The options of `Recipe` that name what a network was tested on; empty if it belongs to no run.

    Without "data", the run was tested on images that were passed as a Python object, or on none.
    """
    run = find_run(source)
    if run is None:
        return {}
    settings, recorded = run.settings, Recipe.from_settings(run.settings)
    known = {"data_dir": recorded.data_dir, "test_split": recorded.test_split, "image_size": recorded.image_size}
    known |= {} if recorded.task is None else {"task": recorded.task}
    if "test_data" in settings:
        return {**known, "data": recorded.test_data}
    is_known = "data" in settings and "test_data" not in run.given_objects
    return {**known, "data": recorded.data} if is_known else known


def resolve_data(data: Data | None, source: Network, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `Recipe` that name test images: those that are passed, else those of a network's run.

    Raises:
        ValueError: if the network does not exist, if neither names the images, or if `ignored` is passed for a Python
            object.
    """
    check_exists(source)
    recorded = evaluation_settings(source)
    # The split belongs to the recorded data; the directory and the image size are kept for other data too.
    if data is not None and data != recorded.get("data"):
        recorded = {**recorded, "data": data, "test_split": Recipe.test_split}
    if "data" not in recorded:
        raise ValueError(f"The test images of {source!r} are not known, because no run records their name. Pass data=.")
    check_ignored(options.get("ignored"), recorded["data"])
    run = find_run(source)
    reading = {} if run is None else Recipe.from_settings(run.settings).reading
    return {**reading, **recorded, **{name: value for name, value in options.items() if value is not None}}


def open_test_images(
    recipe: Recipe, task: Task, source: Network, options: Mapping[str, Any]
) -> tuple[Source, dict[str, Any]]:
    """The test images, and the keyword arguments with which `open_source` reads them and other images alike.

    Args:
        recipe: of `resolve_data`.
        task: what the labels are.
        source: a network; the order of the classes is that which its run recorded, unless the recipe names them.
        options: those that are passed.

    Raises:
        ValueError: if the images do not exist, or have other classes than the `class_names` that are passed.
    """
    names = recipe.class_names or recorded_data(source).get("class_names")
    reading = {**recipe.reading, "task": task, "class_names": names}
    test = open_source(recipe.data, recipe.test_split, recipe.data_dir, **reading)
    # A tf.data.Dataset shows only its highest label, and may lack the last classes.
    if isinstance(recipe.data, tf.data.Dataset) and test.classes:
        test = dataclasses.replace(test, classes=max(test.classes, recorded_data(source).get("classes") or 0))
    if options.get("class_names") is not None:
        check_class_names(recipe.class_names, test)
    return test, reading


def check_exists(source: Network) -> None:
    """Raises a ValueError if a network is a path that does not exist."""
    if isinstance(source, (str, os.PathLike)) and not Path(source).exists():
        path = Path(source)
        raise ValueError(f"Expected a run or a .keras file, but {path} does not exist. {advise_on_path(path)}")


def warn_of_training_images(networks: Mapping[str, Network], test: Source, recipe: Recipe) -> None:
    """Logs a warning for each network whose run was trained on test images, as far as splits and folders show it.

    Args:
        networks: the networks by name.
        test: the test images.
        recipe: names them. Runs on other data are not compared, because these may have to be downloaded.
    """
    opened: dict[tuple, Source] = {}
    for name, source in networks.items():
        run = find_run(source)
        recorded = Recipe() if run is None else Recipe.from_settings(run.settings)
        if run is None or _place(recorded.data) != _place(recipe.data):
            continue
        key = (recorded.train_split, recorded.without_classes, str(recorded.reading))
        try:
            if key not in opened:
                opened[key] = training_images(run, recipe.data_dir)
        except (ValueError, OSError):  # they are not needed
            continue
        warn_of_shared(opened[key], test, f"training images of {name}")


def _place(data: Data) -> str:
    """The name of a dataset, or the place of a folder whatever the path that is written."""
    return os.path.realpath(data) if isinstance(data, (str, os.PathLike)) and os.path.isdir(data) else str(data)


def describe_differences(used: Mapping[str, Any], networks: Mapping[str, Network]) -> list[str]:
    """A sentence for each network whose run was tested on other images than those that are used."""
    sentences = []
    for name, source in networks.items():
        recorded = evaluation_settings(source)
        names = [key for key in ("data", "test_split", "image_size") if "data" in recorded]
        if any(recorded[key] != used.get(key) for key in names):
            before, now = (", ".join(f"{key}={values.get(key)}" for key in names) for values in (recorded, used))
            sentences.append(f"{name} was tested on {before} when it was trained, and is evaluated here on {now}.")
    return sentences


def name_networks(teacher: Network | None, models: Network | Sequence[Network]) -> dict[str, Network]:
    """The networks by name, the teacher first; a network that is passed twice is evaluated once.

    Raises:
        TypeError: if a network is of another type.
        ValueError: if there is no network.
    """
    models = list(models) if isinstance(models, (list, tuple)) else [models]
    networks: dict[str, Network] = {}
    for source in [*([] if teacher is None else [teacher]), *models]:
        if not isinstance(source, (Run, str, os.PathLike, keras.Model)):
            raise TypeError(f"A model must be a Run, a path or a Keras model, but received {source!r}.")
        name = source.name if isinstance(source, keras.Model) else os.fspath(source)
        if isinstance(source, keras.Model) and any(source is network for network in networks.values()):
            continue
        if isinstance(source, keras.Model):
            numbered = (f"{source.name} {number}" for number in itertools.count(2))
            name = next(label for label in itertools.chain([name], numbered) if label not in networks)
        networks.setdefault(name, source)
    if not networks:
        raise ValueError("Expected at least one model or a teacher, but received none. Pass models= or teacher=.")
    return networks


def _kilobytes(source: Network, network: keras.Model) -> float:
    """The size of a network's `.keras` file."""
    if not isinstance(source, keras.Model):
        path = Path(source)
        return (path / "model.keras" if path.is_dir() else path).stat().st_size / 1000
    return saved_kilobytes(network)
