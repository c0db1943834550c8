"""Predicts the classes of images in a folder, with any trained or exported classifier: `kd_keras.predict`."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_keras.errors import check_whole_number, explain_mismatch
from kd_keras.files import write_text
from kd_keras.report.contact_sheet import write_sheet
from kd_keras.runs.classifiers import load_classifier
from kd_keras.runs.image_folder import find_files
from kd_keras.runs.run import Trained

SUFFIXES = (".csv", ".json")


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


@dataclass(frozen=True)
class FolderPredictions:
    """The predictions for the images of a folder.

    Attributes:
        predictions: one for each image that can be read, in the order of their paths.
        unreadable: by file, why it cannot be read.
    """

    predictions: Sequence[Prediction]
    unreadable: Mapping[str, str]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the predictions as a table.

        Args:
            path: ends in `.csv`, with the columns file, class, probability, class_2, probability_2, ...; or in `.json`,
                a list of `{"file", "classes", "probabilities"}`.

        Raises:
            ValueError: if the path ends in something else.
        """
        _check_output(path)
        if Path(path).suffix == ".json":
            write_text(Path(path), json.dumps([row._asdict() for row in self.predictions], indent=1) + "\n")
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        count = len(self.predictions[0].classes)
        ends = ["", *(f"_{place}" for place in range(2, count + 1))]
        writer.writerow(["file", *(f"{name}{end}" for end in ends for name in ("class", "probability"))])
        for row in self.predictions:
            pairs = zip(row.classes, row.probabilities, strict=True)
            writer.writerow([row.file, *(cell for name, value in pairs for cell in (name, f"{value:.6g}"))])
        write_text(Path(path), text.getvalue())


def predict(
    model: Trained,
    images: str | os.PathLike,
    *,
    output: str | os.PathLike | None = None,
    sheet: str | os.PathLike | None = None,
    top: int = 3,
    batch_size: int = 100,
    image_size: tuple[int, int] | None = None,
) -> FolderPredictions:
    """Predicts the classes of an image or of all images in a folder and its folders.

    Images may differ in size and format; they are resized as test images are. Files that cannot be read are skipped
    with a warning.

    Args:
        model: a classifier: a run, its path, a `.keras` file, a Keras model, or a SavedModel, LiteRT or ONNX file that
            `export` wrote.
        images: a folder or a file.
        output: a file that ends in `.csv` or `.json` for the predictions.
        sheet: a PNG file for a contact sheet, of at most 200 images with their classes.
        top: the number of classes for each image, at most K.
        batch_size: images per forward pass.
        image_size: `(H, W)` for a model that reads images of any size and belongs to no run.

    Raises:
        TypeError: if a number is none.
        ValueError: if the model is no classifier, there are no images, none can be read, or a file has another suffix.

    >>> import tempfile, keras
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("L", (20, 10), 255).save(f"{folder}/white.png")
    >>> layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    >>> results = predict(keras.Sequential(layers), folder, top=1)
    >>> results.predictions[0].file
    'white.png'
    """
    check_whole_number("predict", "top", top)
    check_whole_number("predict", "batch_size", batch_size)
    _check_output(output)
    if sheet is not None and Path(sheet).suffix.lower() != ".png":
        raise ValueError(explain_mismatch("a contact sheet that ends in .png", os.fspath(sheet)))
    folder = find_files(images)
    classifier = load_classifier(model, image_size)
    files: list[str] = []
    outputs: list[np.ndarray] = []
    for names, pixels in folder.batches(classifier.image_shape, batch_size):
        files += names
        outputs.append(classifier.outputs(pixels))
    rows = _rows(files, classifier.probabilities(np.concatenate(outputs)), classifier.class_names, top)
    results = FolderPredictions(rows, folder.unreadable)
    if output is not None:
        results.save(output)
    if sheet is not None:
        captions = {row.file: f"{row.classes[0]} {row.probabilities[0]:.0%}" for row in rows}
        write_sheet(Path(sheet), {folder.root / name: (caption, name) for name, caption in captions.items()})
    return results


def _rows(names: list[str], values: np.ndarray, classes: Sequence[str] | None, top: int) -> list[Prediction]:
    order = np.argsort(-values, axis=-1, kind="stable")[:, :top]
    titles = classes or [str(number) for number in range(values.shape[-1])]
    if len(titles) != values.shape[-1]:
        raise ValueError(explain_mismatch(f"{len(titles)} classes, as their names say", f"{values.shape[-1]} outputs"))
    return [
        Prediction(name, tuple(titles[place] for place in best), tuple(float(row[place]) for place in best))
        for name, row, best in zip(names, values, order, strict=True)
    ]


def _check_output(path: str | os.PathLike | None) -> None:
    if path is not None and Path(path).suffix not in SUFFIXES:
        raise ValueError(explain_mismatch(f"an output that ends in {' or '.join(SUFFIXES)}", os.fspath(path)))
