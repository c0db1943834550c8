"""A classifier as a function from images to probabilities: of a run, a Keras file or model, or an exported file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import class_logits
from kd_keras.export import runtimes
from kd_keras.functions import class_names_of, is_saved_model
from kd_keras.models import Recognizer
from kd_keras.networks.inputs import find_input_shape
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.run import Trained, find_run, load_network, recorded_data
from kd_keras.tasks import find_task
from kd_keras.teacher import Teacher

EXPORTS = (".tflite", ".onnx")


@dataclass(frozen=True)
class Classifier:
    """A classifier.

    Attributes:
        outputs: from images `(B, H, W, C)` uint8 to `(B, K)` float32, or `(B, 1)` for a single unit.
        probabilities: from the outputs for all images to `(N, K)` float32.
        image_shape: `(H, W, C)` of the images.
        class_names: K names, or `None` if they are not known.
    """

    outputs: Callable[[np.ndarray], np.ndarray]
    probabilities: Callable[[np.ndarray], np.ndarray]
    image_shape: tuple[int, int, int]
    class_names: Sequence[str] | None


def is_export(source: Any) -> bool:
    """Whether a path is a SavedModel, a LiteRT or an ONNX file."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    return is_saved_model(source) or Path(source).suffix.lower() in EXPORTS


def load_classifier(source: Trained, image_size: tuple[int, int] | None = None) -> Classifier:
    """Loads a classifier.

    Args:
        source: a run, its path, a `.keras` file, a Keras model, or what `export` wrote.
        image_size: `(H, W)` for a Keras model that reads images of any size; by default that of its run.

    Raises:
        ValueError: if it does not exist or is damaged, is no classifier, or the size of its images is not known.
    """
    if is_export(source):
        return _load_export(Path(os.fspath(source)))
    check_task(source, "classification")
    network = load_network(source)
    if isinstance(network, Recognizer):
        raise ValueError(explain_mismatch("a classifier", f"{network.name!r}, which recognizes faces", "use embed"))
    names = recorded_data(source).get("class_names")
    return _load_keras(network, image_shape(source, network, image_size), names)


def check_task(source: Trained, name: str) -> None:
    """Raises a ValueError if a run is of another task."""
    run = find_run(source)
    if run is None:
        return
    recipe = Recipe.from_settings(run.settings)
    task = find_task(recipe.task, recipe.data, recipe.data_dir, recipe.download_timeout)
    if task.name != name:
        expected = f"a network for {name}"
        received = f"{os.fspath(run)}, which is for {task.name}"
        raise ValueError(explain_mismatch(expected, received, "evaluate and export work for every task"))


def image_shape(source: Trained, network: keras.Model, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    """The shape `(H, W, C)` of the images that a network reads.

    Raises:
        ValueError: if it has no input of images, or a size of its own that differs from `image_size`, or the size is
            not known.
    """
    shape = find_input_shape(network)
    if shape is None or len(shape) != 4:
        raise ValueError(explain_mismatch("a network with one input of images", f"{network.name!r} with {shape}"))
    recorded = tuple(recorded_data(source).get("image_shape") or (None, None))[:2]
    size = shape[1:3] if None not in shape[1:3] else image_size or recorded
    if None in size or (image_size is not None and tuple(image_size) != tuple(size)):
        expected = f"image_size= for {network.name!r}, which reads images of {shape[1:3]}"
        raise ValueError(explain_mismatch(expected, str(image_size)))
    return (int(size[0]), int(size[1]), int(shape[3]))


def _load_keras(network: keras.Model, shape: tuple[int, int, int], class_names: Sequence[str] | None) -> Classifier:
    tapped = Teacher(network).tapped(["logits"])
    spec = tapped.specs["logits"]
    if len(spec.shape) != 2:
        received = f"{network.name!r} with logits of shape {spec.shape}"
        raise ValueError(explain_mismatch("a classifier, with one row of logits for each image", received))
    signature = [tf.TensorSpec((None, *shape), tf.float32)]
    run = tf.function(lambda images: tapped(images)["logits"], input_signature=signature)

    def outputs(images: np.ndarray) -> np.ndarray:
        return run(tf.cast(images, tf.float32)).numpy().astype("float32")

    return Classifier(outputs, lambda logits: tf.nn.softmax(class_logits(logits, spec)).numpy(), shape, class_names)


def _load_export(path: Path) -> Classifier:
    run, shape = runtimes.load(path), runtimes.image_shape(path)
    try:
        run(np.zeros((1, *shape), "uint8"))
    except Exception as error:  # of a type for each runtime
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        expected = "an exported classifier from 'images' to 'probabilities', as export writes it"
        raise ValueError(explain_mismatch(expected, f"{path} ({reason})")) from error

    return Classifier(run, _two_classes, shape, class_names_of(path))


def _two_classes(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities `(N, K)`; those of a single sigmoid unit become two columns."""
    if probabilities.shape[-1] > 1:
        return probabilities
    return np.concatenate([1 - probabilities, probabilities], axis=-1)
