"""The objects in images: the predictions of a detector, in pixels of the original images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.detection.decoding import Detections
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import check_finite
from kd_keras.models import Detector
from kd_keras.report.contact_sheet import write_sheet
from kd_keras.runs.image_folder import ImageBatch, ImageFolder
from kd_keras.runs.loading import LoadedModel
from kd_keras.runs.predictions import FolderPredictions, check_names, class_name
from kd_keras.tasks.detection.drawing import LONGER_SIDE, DrawnBox, draw_on_image
from kd_keras.tasks.detection.predictions import detect_finite
from kd_keras.tasks.detection.served import load_detections

SCORE = 0.3
SHEET = 60  # images on a sheet
COLUMNS = ("ymin", "xmin", "ymax", "xmax")


class Box(NamedTuple):
    """An object.

    Attributes:
        class_name: of its class, or the number if the names are not known.
        number: of its class.
        score: from 0 to 1.
        ymin, xmin, ymax, xmax: of its box, in pixels of the original image from its upper left corner.
    """

    class_name: str
    number: int
    score: float
    ymin: float
    xmin: float
    ymax: float
    xmax: float


class ImageBoxes(NamedTuple):
    """The objects in one image.

    Attributes:
        file: its path in the folder.
        size: its original size `(height, width)`, upright as its EXIF data say.
        boxes: in order of decreasing score; empty if there are none.
    """

    file: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        texts = [f"{box.class_name} {box.score:.3f} [{', '.join(f'{x:.1f}' for x in box[3:])}]" for box in self.boxes]
        return f"{self.file} {', '.join(texts) or 'no boxes'}"


@dataclass(frozen=True)
class FolderBoxes(FolderPredictions):
    """The objects in the images of a folder: each prediction is an `ImageBoxes`.

    A table has a row for each box, with the columns file, class, score, ymin, xmin, ymax and xmax, and no row for an
    image without boxes. JSON is a list of `{"file", "height", "width", "boxes"}` for all images, in which a box is a
    dictionary of the other columns.
    """

    predictions: Sequence[ImageBoxes]

    def rows(self) -> Iterator[Sequence[str]]:
        yield ["file", "class", "score", *COLUMNS]
        for image in self.predictions:
            for box in image.boxes:
                yield [image.file, box.class_name, f"{box.score:.6g}", *(f"{value:.2f}" for value in box[3:])]

    def records(self) -> list[dict[str, Any]]:
        return [
            {"file": image.file, "height": image.size[0], "width": image.size[1], "boxes": _records_of(image.boxes)}
            for image in self.predictions
        ]

    def draw_sheet(self, path: str | os.PathLike, folder: ImageFolder) -> None:
        images = {folder.root / image.file: image for image in self.predictions}

        def draw(file: Path, picture: np.ndarray) -> np.ndarray:
            height, width = images[file].size
            sides = (height, width, height, width)
            boxes = [
                DrawnBox([x / side for x, side in zip(box[3:], sides, strict=True)], box.number, text=_label(box))
                for box in reversed(images[file].boxes)  # the highest score on top
            ]
            return draw_on_image(picture, boxes)

        captions = {file: (_count(image.boxes), image.file) for file, image in images.items()}
        write_sheet(Path(path), captions, draw=draw, side=LONGER_SIDE, most=SHEET, bits=folder.bits)


class BoxPredictor:
    """Finds objects, as `Predictor` describes it.

    Args:
        loaded: a detector.
        score: the lowest score of a box; 0.3 by default.

    Raises:
        ValueError: if it is not a detector.
    """

    def __init__(self, loaded: LoadedModel, score: float | None):
        self.loaded, self.score = loaded, SCORE if score is None else score
        self._images: list[ImageBoxes] = []
        if isinstance(loaded.model, keras.Model):
            self._run = _of_network(loaded.model, loaded)
        else:
            self._run = load_detections(loaded.model, loaded.image_shape[:2])

    def add(self, batch: ImageBatch) -> None:
        detections = self._run(batch.images)
        for row, (file, size) in enumerate(zip(batch.files, batch.sizes, strict=True)):
            self._images.append(ImageBoxes(file, size, tuple(self._boxes(detections, row, size))))

    def results(self, unreadable: Mapping[str, str]) -> FolderBoxes:
        return FolderBoxes(self._images, unreadable)

    def _boxes(self, detections: Detections, row: int, size: tuple[int, int]) -> Iterator[Box]:
        """The boxes of one image of a batch, from "xyxy" in pixels of the network's input."""
        (height, width), (own_height, own_width) = size, self.loaded.image_shape[:2]
        scale = np.array([width / own_width, height / own_height] * 2)
        for index in range(int(detections.count[row])):
            score, number = float(detections.scores[row][index]), int(detections.classes[row][index])
            if score >= self.score:
                xmin, ymin, xmax, ymax = (detections.boxes[row][index] * scale).tolist()
                yield Box(class_name(self.loaded.class_names, number), number, score, ymin, xmin, ymax, xmax)


def _of_network(network: keras.Model, loaded: LoadedModel) -> Callable[[np.ndarray], Detections]:
    """A function from images `(B, H, W, C)` uint8 to the detections, as the evaluation decodes them."""
    if not isinstance(network, Detector):
        raise ValueError(explain_mismatch("a detector of kd_keras", f"{loaded.name}, which is another network"))
    check_names(loaded.class_names, network.classes)
    signature = [tf.TensorSpec((None, *loaded.image_shape), tf.float32)]
    run = tf.function(partial(detect_finite, network), input_signature=signature)

    def detections(images: np.ndarray) -> Detections:
        detected, is_finite = run(tf.cast(images, tf.float32))
        check_finite(bool(is_finite), loaded.name)
        return Detections(*(np.asarray(value) for value in detected))

    return detections


def _records_of(boxes: Sequence[Box]) -> list[dict[str, Any]]:
    return [{"class": box.class_name, "score": box.score, **dict(zip(COLUMNS, box[3:], strict=True))} for box in boxes]


def _label(box: Box) -> str:
    return f"{box.class_name} {box.score:.2f}"


def _count(boxes: Sequence[Box]) -> str:
    return f"{len(boxes)} box{'' if len(boxes) == 1 else 'es'}"
