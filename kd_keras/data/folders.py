"""Images in folders: one folder for each class, or images without labels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import tensorflow as tf

from kd_keras.data.base import Source
from kd_keras.data.file_sources import file_ranges, source_of_files
from kd_keras.data.folder_layout import find_images
from kd_keras.data.image_files import (
    check_full_range,
    common_channels,
    common_size,
    read_header,
    read_image,
)
from kd_keras.data.python_calls import call_python

READER = 2  # increased if the same files are decoded to different pixels


def read(
    folder: str | os.PathLike, split: str = "train", channels: int | None = None, bits: int | None = None
) -> Source:
    """Opens a folder of images as a source.

    There are three layouts, which the content of the folder determines. Hidden files are ignored. A warning names other
    files that are left out: those with another suffix than `image_files.SUFFIXES`, and those in deeper folders.

    * `FOLDER/<class>/*.jpg`: one split, called `"train"` or `"all"`;
    * `FOLDER/<split>/<class>/*.jpg`: `split` is one of these folders, or `"all"`. Classes are numbered over all splits
      together, so that a class that is missing in one split does not change the numbers of the others;
    * `FOLDER/*.jpg`: images without labels, `"train"` or `"all"`.

    Examples are in the order of their paths, classes in the order of their names. Images are read as `read_image`
    describes.

    Args:
        folder: the folder.
        split: one of its splits.
        channels: 1 for gray images, 3 for colors; by default 1 if all images of the folder are gray, else 3.
        bits: of images with 16 bits per channel, the number of low bits that their values use, 8 to 16.

    Raises:
        FileNotFoundError: if there is no image.
        ValueError: if the split is unknown, the layouts are mixed, a class folder has no images, images of 16 bits use
            fewer bits and `bits` is not given, or a file is not an image (with its name). If a file is damaged after
            its header, reading its example raises `tf.errors.InvalidArgumentError`.
    """
    folder = Path(folder)
    layout = find_images(folder)
    files = layout.select(split)
    layout.warn(split)
    paths = [str(path) for path, _ in files]
    everything = [str(path) for path, _ in layout.select("all")]
    if bits is None:
        check_bits(folder, everything)
    depth = channels or common_channels(map(read_header, everything))
    shape = (*(common_size(map(read_header, paths)) or (None, None)), depth)
    layout.log(split, "gray" if depth == 1 else "in colors")
    columns = {"path": tf.constant([os.fsencode(path) for path in paths])}
    names = layout.class_names
    if names is not None:
        numbers = {name: number for number, name in enumerate(names)}
        columns["label"] = tf.constant([numbers[str(name)] for _, name in files], tf.int64)

    def decode(index: tf.Tensor, row: dict) -> dict:
        image = call_python(lambda path: read_image(os.fsdecode(path), depth, bits or 16), [row["path"]], tf.uint8)
        label = {"label": row["label"]} if "label" in row else {}
        return {"image": tf.ensure_shape(image, shape), "index": index, **label}

    listing = [(str(path.relative_to(folder)), path.stat().st_size) for path, _ in files]
    digest = hashlib.sha256(repr([READER, depth, bits, listing]).encode()).hexdigest()
    version = f"{folder.name} {split} {digest}"
    ranges = file_ranges(paths)
    return source_of_files(
        columns, decode, name=str(folder), image_shape=shape, class_names=names, version=version, ranges=ranges
    )


def check_bits(folder: Path, paths: list[str]) -> None:
    """Checks that 16-bit images of a folder use their range, as `check_full_range` describes."""
    advice = (
        "Pass image_bits=, the number of bits that the camera or scanner used: with image_bits={bits}, {highest} "
        "becomes 255."
    )
    check_full_range(str(folder), paths, advice)
