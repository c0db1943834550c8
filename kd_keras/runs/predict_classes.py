"""The most probable classes of images: the predictions of a classifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import check_finite, class_logits
from kd_keras.export.runtimes import load
from kd_keras.report.contact_sheet import write_sheet
from kd_keras.runs.image_folder import ImageBatch, ImageFolder
from kd_keras.runs.loading import LoadedModel
from kd_keras.runs.predictions import FolderPredictions, check_names, class_name
from kd_keras.teacher import Teacher

TOP = 3
Array: TypeAlias = np.ndarray


class Prediction(NamedTuple):
    """The most probable classes of one image.

    Attributes:
        file: its path in the folder.
        classes: the names of the classes, the most probable one first; their numbers if the names are not known.
        probabilities: of these classes.
    """

    file: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def __str__(self) -> str:
        pairs = zip(self.classes, self.probabilities, strict=True)
        return f"{self.file} " + ", ".join(f"{name} {value:.3f}" for name, value in pairs)


@dataclass(frozen=True)
class FolderClasses(FolderPredictions):
    """The classes of the images of a folder: each prediction is a `Prediction`.

    A table has the columns file, class, probability, class_2, probability_2, ...; JSON is a list of
    `{"file", "classes", "probabilities"}`.
    """

    predictions: Sequence[Prediction]

    def rows(self) -> Iterator[Sequence[str]]:
        ends = ["", *(f"_{index}" for index in range(2, len(self.predictions[0].classes) + 1))]
        yield ["file", *(f"{name}{end}" for end in ends for name in ("class", "probability"))]
        for row in self.predictions:
            pairs = zip(row.classes, row.probabilities, strict=True)
            yield [row.file, *(cell for name, value in pairs for cell in (name, f"{value:.6g}"))]

    def records(self) -> list[dict[str, Any]]:
        return [row._asdict() for row in self.predictions]

    def draw_sheet(self, path: str | os.PathLike, folder: ImageFolder) -> None:
        titles = {row.file: f"{row.classes[0]} {row.probabilities[0]:.0%}" for row in self.predictions}
        captions = {folder.root / file: (title, file) for file, title in titles.items()}
        write_sheet(Path(path), captions, bits=folder.bits)


class ClassPredictor:
    """Predicts classes, as `Predictor` describes it.

    Args:
        loaded: a classifier.
        top: the number of classes for each image, at most K; 3 by default.

    Raises:
        ValueError: if it is not a classifier.
    """

    def __init__(self, loaded: LoadedModel, top: int | None):
        self.loaded, self.top = loaded, TOP if top is None else top
        self._files: list[str] = []
        self._outputs: list[Array] = []
        if isinstance(loaded.model, keras.Model):
            self._run, self._probabilities = _of_network(loaded.model, loaded.image_shape)
        else:
            self._run, self._probabilities = load(loaded.model), _two_classes

    def add(self, batch: ImageBatch) -> None:
        outputs = self._run(batch.images)
        check_finite(outputs, self.loaded.name)
        self._files += batch.files
        self._outputs.append(outputs)

    def results(self, unreadable: Mapping[str, str]) -> FolderClasses:
        """The predictions; raises a ValueError if there are more or fewer names than classes."""
        values = self._probabilities(np.concatenate(self._outputs))
        names = self.loaded.class_names
        check_names(names, values.shape[-1])
        titles = [class_name(names, number) for number in range(values.shape[-1])]
        order = np.argsort(-values, axis=-1, kind="stable")[:, : self.top]
        rows = [
            Prediction(file, tuple(titles[index] for index in best), tuple(float(row[index]) for index in best))
            for file, row, best in zip(self._files, values, order, strict=True)
        ]
        return FolderClasses(rows, unreadable)


def _of_network(
    network: keras.Model, shape: tuple[int, int, int]
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Two functions: from images `(B, H, W, C)` uint8 to outputs `(B, K)`, and from all of these to probabilities."""
    tapped = Teacher(network).tapped(["logits"])
    spec = tapped.specs["logits"]
    if len(spec.shape) != 2:
        received = f"{network.name!r} with logits of shape {spec.shape}"
        raise ValueError(explain_mismatch("a classifier, with one row of logits for each image", received))
    signature = [tf.TensorSpec((None, *shape), tf.float32)]
    run = tf.function(lambda images: tapped(images)["logits"], input_signature=signature)

    def outputs(images: Array) -> Array:
        return run(tf.cast(images, tf.float32)).numpy().astype("float32")

    return outputs, lambda logits: tf.nn.softmax(class_logits(logits, spec)).numpy()


def _two_classes(probabilities: Array) -> Array:
    """Probabilities `(N, K)`; those of a single sigmoid unit become two columns."""
    if probabilities.shape[-1] > 1:
        return probabilities
    return np.concatenate([1 - probabilities, probabilities], axis=-1)
