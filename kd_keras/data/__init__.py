"""Images for student and teacher: sources of examples, and the pipeline that turns them into batches."""

from __future__ import annotations

import os

from kd_keras.data.augment import Augmentation
from kd_keras.data.base import ImageAugmentation, Source
from kd_keras.data.pipeline import evaluation, steps_per_epoch, training
from kd_keras.data.shards import SHARDING
from kd_keras.data.statistics import measure

__all__ = (
    "SHARDING",
    "Augmentation",
    "ImageAugmentation",
    "Source",
    "evaluation",
    "load",
    "measure",
    "steps_per_epoch",
    "training",
)


def load(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Opens one split of a dataset, in an order that is the same in each epoch and each run.

    Args:
        name: `"digits"` (embedded, nothing to download), any TFDS image-classification dataset such as `"cifar10"`, or
            an existing folder of images: `FOLDER/<class>/*.jpg`, `FOLDER/<split>/<class>/*.jpg`, or `FOLDER/*.jpg`
            for images without labels.
        split: for example `"train"`; for TFDS datasets also a slice such as `"train[:1000]"`.
        data_dir: the directory of TFDS datasets, or `None` for the default one. Not used for a folder.

    Raises:
        ValueError: if the dataset or split is unknown (with similar names), or its examples are not images with one
            class each.
        FileNotFoundError: if a dataset is neither prepared nor can be downloaded, or a folder has no images.
        OSError: if the digits can be neither read nor written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     digits = load("digits", "test", data_dir=directory)
    >>> digits.size, digits.classes, digits.image_shape
    (797, 10, (8, 8, 1))
    """
    # Imported here because TFDS takes seconds to import, and a folder of images does not need it.
    if os.path.isdir(name):
        from kd_keras.data import folders

        return folders.read(name, split)
    from kd_keras.data import digits, sources

    if name == "digits":
        digits.prepare(data_dir)
    return sources.read(name, split, data_dir)
