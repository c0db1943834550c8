"""Real images for student and teacher: sources of examples, and the pipeline that makes batches of them."""

from __future__ import annotations

import os

from kd_keras.data.augment import Augmentation
from kd_keras.data.base import Source
from kd_keras.data.pipeline import Normalisation, evaluation, measure, steps_per_epoch, training

__all__ = ("Augmentation", "Normalisation", "Source", "evaluation", "load", "measure", "steps_per_epoch", "training")


def load(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Opens one split of a dataset, in an order that is the same in each epoch and each run.

    Args:
        name: `"digits"` (embedded, nothing to download), any TFDS image-classification dataset, e.g. `"cifar10"`, or
            an existing folder of images: `FOLDER/<class>/*.jpg`, `FOLDER/<split>/<class>/*.jpg`, or `FOLDER/*.jpg`
            for images without labels.
        split: e.g. `"train"`; for TFDS datasets also a slice, e.g. `"train[:1000]"`.
        data_dir: where TFDS keeps its datasets; `None` for its usual place. Unused for a folder.

    Raises:
        ValueError: for an unknown dataset or split (with the nearest ones) and for data that is not a class of
            images each.
        FileNotFoundError: where a dataset is neither prepared nor can be downloaded, or a folder has no images.
        OSError: where the digits can be neither read nor written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     digits = load("digits", "test", data_dir=place)
    >>> digits.size, digits.classes, digits.image_shape
    (797, 10, (8, 8, 1))
    """
    # Imported here: TFDS takes seconds to import, and training on one's own images does without it.
    if os.path.isdir(name):
        from kd_keras.data import folders

        return folders.read(name, split)
    from kd_keras.data import digits, sources

    if name == "digits":
        digits.prepare(data_dir)
    return sources.read(name, split, data_dir)
