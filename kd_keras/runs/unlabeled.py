"""Opens the images of a recipe without their labels, as `pretrain` trains on them and `record` can record them."""

from __future__ import annotations

import os
from pathlib import Path

from kd_keras.data import Source
from kd_keras.data.unlabeled import read_unlabeled, without_labels
from kd_keras.errors import explain_mismatch
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.sources import open_source
from kd_keras.tasks import find_task


def open_unlabeled(recipe: Recipe) -> Source:
    """The images of a folder, of the files in a list, or of a dataset of any task, without labels.

    Raises:
        FileNotFoundError: if a text file of paths does not exist.
        ValueError: if an option needs labels or splits, which the images do not have, or if no image can be decoded.

    >>> open_unlabeled(Recipe(data="digits")).has_labels
    False
    """
    data = recipe.data
    if recipe.without_classes:
        received = f"without_classes={','.join(map(str, recipe.without_classes))}"
        raise ValueError(explain_mismatch("images without labels", received, "leave it out"))
    if isinstance(data, (str, os.PathLike)) and (os.path.isdir(data) or Path(data).suffix == ".txt"):
        if recipe.train_split != Recipe.train_split:
            received = f"train_split={recipe.train_split!r}"
            advice = "name the folder of the images to train on"
            raise ValueError(explain_mismatch(f"no split, because all images of {data} are read", received, advice))
        return read_unlabeled(data, recipe.image_channels, recipe.image_bits)
    task = find_task(recipe.task, data, recipe.data_dir, recipe.download_timeout)
    return without_labels(open_source(data, recipe.train_split, recipe.data_dir, task=task, **recipe.reading))
