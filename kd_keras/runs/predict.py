"""Predicts the images in a folder with any trained or exported network, whatever its task is: `kd_keras.predict`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_keras.detection.decoding import LOWEST_SCORE
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.runs.image_folder import ImageFolder, find_files, set_bits
from kd_keras.runs.loading import LoadedModel, load_model
from kd_keras.runs.predict_boxes import BoxPredictor
from kd_keras.runs.predict_classes import ClassPredictor
from kd_keras.runs.predict_masks import MaskPredictor
from kd_keras.runs.predictions import TABLES, FolderPredictions, Predictor, check_file
from kd_keras.runs.run import Trained

OPTIONS = {"top": "classification", "score": "detection", "masks": "segmentation"}  # and the task of each


def predict(
    model: Trained,
    images: str | os.PathLike,
    *,
    output: str | os.PathLike | None = None,
    sheet: str | os.PathLike | None = None,
    top: int | None = None,
    score: float | None = None,
    masks: str | os.PathLike | None = None,
    batch_size: int = 100,
    image_size: tuple[int, int] | None = None,
    image_bits: int | None = None,
) -> FolderPredictions:
    """Predicts the classes, boxes or masks of an image or of all images in a folder and its folders.

    The task is that of the network. Images may differ in size and format; they are resized as test images are, and
    boxes and masks have the original size. Files that cannot be read are skipped with a warning.

    Args:
        model: a classifier, a detector or a segmentation network: a run, its path, a `.keras` file, a Keras model, or a
            SavedModel, LiteRT or ONNX file that `export` wrote.
        images: a folder or a file.
        output: a file that ends in `.csv` or `.json` for the predictions.
        sheet: a PNG file for a contact sheet: at most 200 images with their classes, 60 with their boxes, or 100 with
            their masks.
        top: of a classifier, the number of classes for each image, 3 by default, at most K.
        score: of a detector, the lowest score of a box, 0.3 by default, from 0.05 to 1. An exported file may have a
            higher limit of its own.
        masks: required for a segmentation network: the folder for the masks, PNG files with the names of the images.
            Their pixels are the numbers of the classes.
        batch_size: images per forward pass; segmentation networks and exported detectors take one at a time.
        image_size: `(H, W)` for a model that reads images of any size and belongs to no run.
        image_bits: of images with 16 bits per channel, the number of low bits that their values use, 8 to 16; by
            default that of the model's run.

    Returns:
        `predictions`, one for each image: `Prediction` of a classifier, `ImageBoxes` of a detector, or `ImageMask` of a
        segmentation network.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if the model is of another task, such as a network of faces; an option belongs to another task;
            there are no images, none can be read, or two have the same mask; outputs of a Keras model or scores of an
            exported file are not finite; or a file cannot be written at its path.

    >>> import tempfile, keras
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("L", (20, 10), 255).save(f"{folder}/white.png")
    >>> layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    >>> results = predict(keras.Sequential(layers), folder, top=1)
    >>> results.predictions[0].file
    'white.png'
    >>> from kd_keras import models
    >>> detector = models.build("detector/resnet8", (16, 16, 3), 2, pyramid=(2,), width=8)
    >>> predict(detector, folder).predictions[0].size
    (10, 20)
    """
    if top is not None:
        check_whole_number("predict", "top", top)
    if score is not None:
        check_number("predict", "score", score, least=LOWEST_SCORE, most=1)  # below it no network is decoded
    check_whole_number("predict", "batch_size", batch_size)
    check_file("an output", output, TABLES)
    check_file("a contact sheet", sheet, (".png",))
    folder = find_files(images)
    if sheet is not None:
        _check_sheet(Path(sheet), folder, masks)
    set_bits(folder, image_bits, model)
    loaded = load_model(model, image_size)
    predictor = _make_predictor(loaded, folder, {"top": top, "score": score, "masks": masks})
    for batch in folder.batches(loaded.image_shape, batch_size):
        predictor.add(batch)
    results = predictor.results(folder.unreadable)
    if output is not None:
        results.save(output)
    if sheet is not None:
        results.draw_sheet(sheet, folder)
    return results


def _check_sheet(sheet: Path, folder: ImageFolder, masks: str | os.PathLike | None) -> None:
    """Raises a ValueError if a contact sheet would replace an image or a mask, or be predicted itself next time."""
    paths = [folder.paths[0] if folder.is_single else folder.root, *([] if masks is None else [Path(masks)])]
    for path in paths:
        if sheet.resolve().is_relative_to(path.resolve()):
            advice = "name a file in another folder"
            raise ValueError(explain_mismatch(f"a contact sheet outside of {path}", str(sheet), advice))


def _make_predictor(loaded: LoadedModel, folder: ImageFolder, options: Mapping[str, Any]) -> Predictor:
    for name, task in OPTIONS.items():
        if options[name] is not None and task != loaded.task:
            expected = f"options of {loaded.task} for {loaded.name}"
            raise ValueError(explain_mismatch(expected, f"{name}=, an option of {task}", "leave it out"))
    if loaded.task == "classification":
        return ClassPredictor(loaded, options["top"])
    if loaded.task == "detection":
        return BoxPredictor(loaded, options["score"])
    if options["masks"] is None:
        advice = "pass a folder, in which they are written as PNG files"
        raise ValueError(explain_mismatch(f"masks= for {loaded.name}, a segmentation network", "none", advice))
    return MaskPredictor(loaded, folder, options["masks"])
