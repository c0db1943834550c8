"""Opens the images that a name, a folder or a Python object stands for, and checks the options that read them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import tensorflow as tf

from kd_keras import data
from kd_keras.contracts import IGNORED
from kd_keras.errors import explain_mismatch
from kd_keras.runs.datasets import source_from
from kd_keras.runs.recipe import Data
from kd_keras.tasks import CLASSIFICATION, Task


def check_ignored(ignored: Sequence[int] | None, *images: Data | None) -> None:
    """Checks that ignored values of masks come with a dataset or a folder whose masks are read with them.

    Raises:
        ValueError: if all images are Python objects, in whose masks ignored pixels are -1.
    """
    if ignored and not any(isinstance(source, (str, os.PathLike)) for source in images):
        expected = f"a dataset or a folder whose masks are read with ignored={ignored}"
        advice = f"leave it out, and give ignored pixels of masks the value {IGNORED}"
        raise ValueError(explain_mismatch(expected, "images as a Python object", advice))


def check_class_names(class_names: Sequence[str] | None, source: data.Source) -> None:
    """Checks that names of classes which the user passes are those of the images.

    Raises:
        ValueError: if the images have other classes, or name none.
    """
    if class_names is not None and tuple(class_names) != source.class_names:
        received = f"class_names={','.join(class_names)}"
        raise ValueError(
            explain_mismatch(f"the classes of {source.name!r}, {source.class_names}", received, "leave it out")
        )


def open_source(
    images: Data,
    split: str,
    data_dir: str | None = None,
    *,
    task: Task = CLASSIFICATION,
    class_names: Sequence[str] | None = None,
    image_channels: int | None = None,
    image_bits: int | None = None,
    ignored: Sequence[int] | None = None,
    download_timeout: float = 60.0,
) -> data.Source:
    """Opens the examples of a name, a folder, a `Source` or a `tf.data.Dataset`.

    Args:
        images: as the `data` of `Recipe`.
        split: the split of a name or a folder; all examples of a `Source` or a `tf.data.Dataset` are used.
        data_dir: where TFDS keeps prepared datasets; its usual place by default.
        task: what the labels are.
        class_names: the names of the classes in their order, if another split or a run has determined them.
        image_channels: 1 for gray images, 3 for colors; by default what the dataset has.
        image_bits: as for `data.load`.
        ignored: values of masks that belong to no class.
        download_timeout: as for `data.load`.

    Raises:
        TypeError: if the images are of another type.
        FileNotFoundError: if a dataset is neither prepared nor downloadable, or a folder has no images.
        ValueError: if there are no such images, or their labels are of another task.
    """
    if isinstance(images, (str, os.PathLike)):
        return task.load(
            os.fspath(images),
            split,
            data_dir,
            class_names=class_names,
            image_channels=image_channels,
            image_bits=image_bits,
            ignored=ignored,
            download_timeout=download_timeout,
        )
    if not isinstance(images, (data.Source, tf.data.Dataset)):
        raise TypeError(
            f"data must be a name, a folder, a Source or a tf.data.Dataset, but received {type(images).__name__}."
        )
    source = source_from(images) if isinstance(images, tf.data.Dataset) else images
    task.check_source(source)
    return source if image_channels is None else source.with_channels(image_channels)
