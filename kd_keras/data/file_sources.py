"""A source of image files: what folders of classes, of boxes and of masks have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from kd_keras.data.base import Source


def source_of_files(
    columns: Any,
    decode: Callable[[tf.Tensor, Any], dict],
    *,
    name: str,
    image_shape: tuple[int | None, int | None, int],
    class_names: tuple[str, ...] | None,
    version: str,
    ranges: tuple[tuple[str, int, int], ...] = (),
) -> Source:
    """A source that reads one image file for each example.

    Args:
        columns: a tensor or an array of n rows, or a structure of them: the paths, and perhaps the labels.
        decode: a function from the index and a row of each column to an example.
        name: of the source.
        image_shape: `(H, W, C)`, or `(None, None, C)` if images differ in size.
        class_names: K names, or `None` if there are no labels.
        version: of the source.
        ranges: of the source.
    """
    count = len(tf.nest.flatten(columns)[0])

    def read_range(begin: int, end: int) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(lambda column: column[begin:end], columns))
        return rows.enumerate(begin).map(decode, tf.data.AUTOTUNE, deterministic=True)

    height, width, channels = image_shape
    return Source(
        examples=read_range(0, count),
        name=name,
        size=count,
        classes=len(class_names) if class_names else None,
        class_names=class_names,
        image_shape=None if height is None or width is None else (height, width, channels),
        version=version,
        files=count,
        read_range=read_range,
        ranges=ranges,
    )


def file_ranges(paths: Iterable[str | os.PathLike]) -> tuple[tuple[str, int, int], ...]:
    """The `ranges` of a source whose splits may list files of one folder: each file is a range of its own.

    >>> [(os.path.basename(name), begin, end) for name, begin, end in file_ranges(["1.png", "2.png"])]
    [('1.png', 0, 1), ('2.png', 0, 1)]
    """
    folders: dict[str, str] = {}  # resolved once, because there may be many files
    ranges = []
    for path in paths:
        folder, name = os.path.split(os.fspath(path))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        ranges.append((os.path.join(folders[folder], name), 0, 1))
    return tuple(ranges)
