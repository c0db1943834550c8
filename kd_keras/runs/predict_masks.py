"""The class of each pixel of images: the masks of a segmentation network, in the size of the original images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import check_finite
from kd_keras.primitives import resize_bilinear, resize_nearest
from kd_keras.report.contact_sheet import write_sheet
from kd_keras.runs.image_folder import ImageBatch, ImageFolder
from kd_keras.runs.loading import LoadedModel
from kd_keras.runs.mask_files import find_mask_files, read_mask, write_mask
from kd_keras.runs.predictions import FolderPredictions, check_names, class_name
from kd_keras.tasks.segmentation.counts import logits_of
from kd_keras.tasks.segmentation.export import load_class_maps
from kd_keras.tasks.segmentation.figures import class_colors, color_mask

LOGGER = logging.getLogger("kd_keras")
SIDE, SHEET = 256, 100  # of a sheet: pixels of an image, and the number of images


class ImageMask(NamedTuple):
    """The mask of one image.

    Attributes:
        file: the path of the image in its folder.
        mask: the path of the mask in the folder of masks.
        shares: the fraction of the image's pixels of each class by its name, for all classes in their order; of an
            exported file without names, by the number, up to the highest class of all images.
    """

    file: str
    mask: str
    shares: dict[str, float]

    def __str__(self) -> str:
        largest = sorted(self.shares.items(), key=lambda entry: -entry[1])
        return f"{self.file} " + ", ".join(f"{name} {share:.3f}" for name, share in largest if share)


@dataclass(frozen=True)
class FolderMasks(FolderPredictions):
    """The masks of the images of a folder: each prediction is an `ImageMask`.

    A table has the columns file, mask and share_<class>, the fraction of pixels, for each class; JSON is a list of
    `{"file", "mask", "shares"}`. A mask is a PNG of the original size, whose pixels are the numbers of the classes: of
    a palette with the colors of the contact sheet, or 16-bit gray if a number is above 255. They count from 0 in the
    order of the shares, also if the masks for training have other numbers or colors for the classes.

    Attributes:
        folder: the folder of the masks.
    """

    predictions: Sequence[ImageMask]
    folder: Path

    def rows(self) -> Iterator[Sequence[str]]:
        yield ["file", "mask", *(f"share_{name}" for name in self.predictions[0].shares)]
        for row in self.predictions:
            yield [row.file, row.mask, *(f"{share:.6g}" for share in row.shares.values())]

    def records(self) -> list[dict[str, Any]]:
        return [row._asdict() for row in self.predictions]

    def draw_sheet(self, path: str | os.PathLike, folder: ImageFolder) -> None:
        images = {folder.root / row.file: row for row in self.predictions}
        names = list(self.predictions[0].shares)

        def draw(file: Path, picture: np.ndarray) -> np.ndarray:
            mask = read_mask(self.folder / images[file].mask)
            small = np.asarray(resize_nearest(mask[None].astype("int32"), picture.shape[:2]))[0]
            return color_mask(picture, small, len(names))

        shown = [row.shares for row in self.predictions[:SHEET]]
        colors = dict(zip(names, map(tuple, class_colors(len(names)).tolist()), strict=True))
        key = {name: color for name, color in colors.items() if any(shares[name] for shares in shown)}
        captions = {file: (_largest_share(row), row.file) for file, row in images.items()}
        write_sheet(Path(path), captions, draw=draw, side=SIDE, most=SHEET, key=key, bits=folder.bits)


class MaskPredictor:
    """Predicts masks and writes them, as `Predictor` describes it.

    Class maps of the network's image size are resized by nearest neighbor, so that a network and its exported file give
    the same mask. On CamVid the mean IoU of resized logits differed by 0.0004.

    Args:
        loaded: a segmentation network.
        folder: the images.
        masks: the folder of the masks.

    Raises:
        ValueError: if it is not a segmentation network, its class names are not different or do not fit its outputs, or
            the path of a mask is taken by another file.
    """

    def __init__(self, loaded: LoadedModel, folder: ImageFolder, masks: str | os.PathLike):
        self.loaded, self.folder, self.files = loaded, Path(masks), find_mask_files(folder, Path(masks))
        self._counts: list[tuple[str, np.ndarray]] = []
        names = loaded.class_names
        if names is not None and len(set(names)) < len(names):
            raise ValueError(explain_mismatch(f"different names of the classes of {loaded.name}", ", ".join(names)))
        if isinstance(loaded.model, keras.Model):
            self._run, self.classes = _of_network(loaded.model, loaded)
        else:
            self._run, self.classes = _of_export(loaded.model), len(names or ())

    def add(self, batch: ImageBatch) -> None:
        for file, small, size in zip(batch.files, self._run(batch.images), batch.sizes, strict=True):
            mask = np.asarray(resize_nearest(small[None], size))[0]
            class_name(self.loaded.class_names, int(mask.max()))  # refuses a number without a name before it is written
            self._counts.append((file, np.bincount(mask.ravel())))
            write_mask(self.folder / self.files[file], mask)

    def results(self, unreadable: Mapping[str, str]) -> FolderMasks:
        """The shares of the classes in all masks."""
        classes = max(self.classes, *(len(counts) for _, counts in self._counts))
        titles = [class_name(self.loaded.class_names, number) for number in range(classes)]
        if self.loaded.class_names is not None:
            numbered = ", ".join(f"{number} {title}" for number, title in enumerate(titles))
            LOGGER.info("The pixels of the masks are the numbers of the classes: %s.", numbered)
        rows = []
        for file, counts in self._counts:
            shares = np.pad(counts, (0, classes - len(counts))) / counts.sum()
            rows.append(ImageMask(file, self.files[file], dict(zip(titles, shares.tolist(), strict=True))))
        return FolderMasks(rows, unreadable, self.folder)


def _of_network(network: keras.Model, loaded: LoadedModel) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """A function from images `(B, H, W, C)` uint8 to class maps `(B, H, W)`, and the number of classes."""
    logits = logits_of(network, tf.TensorSpec((None, *loaded.image_shape), tf.float32))
    size, classes = loaded.image_shape[:2], int(logits(tf.zeros((1, *loaded.image_shape))).shape[-1])
    check_names(loaded.class_names, classes)

    @tf.function  # only the numbers of the classes leave it: logits of the size of the images need much memory
    def class_map(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = resize_bilinear(logits(image), size)
        return tf.argmax(values, -1), tf.reduce_all(tf.math.is_finite(values))

    def maps(images: np.ndarray) -> np.ndarray:
        results = [class_map(tf.cast(image[None], tf.float32)) for image in images]
        check_finite(all(bool(is_finite) for _, is_finite in results), loaded.name)
        return np.concatenate([np.asarray(numbers) for numbers, _ in results])

    return maps, classes


def _of_export(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images `(B, H, W, C)` uint8 to class maps; a LiteRT file takes one image at a time."""
    run = load_class_maps(path)
    return lambda images: np.concatenate([run(image[None]) for image in images])


def _largest_share(row: ImageMask) -> str:
    name, share = max(row.shares.items(), key=lambda entry: entry[1])
    return f"{name} {share:.0%}"
