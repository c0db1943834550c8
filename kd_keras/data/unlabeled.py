"""Images without labels: all images below a folder, or those that a text file lists."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from kd_keras.data.base import Source
from kd_keras.data.file_sources import source_of_files
from kd_keras.data.folder_layout import IGNORED
from kd_keras.data.folders import READER, check_bits
from kd_keras.data.image_files import SUFFIXES, Header, check_image, common_channels, common_size, read_image
from kd_keras.data.python_calls import call_python
from kd_keras.errors import explain_mismatch

NAMED = 5  # the number of unreadable files that a message lists
logger = logging.getLogger("kd_keras")


def read_unlabeled(location: str | os.PathLike, channels: int | None = None, bits: int | None = None) -> Source:
    """Opens all images of a folder and of the folders in it, or those that a text file lists, without labels.

    Every file is decoded once, so that a damaged one does not end a training: it is left out, and a warning names it.
    Examples are in the order of their paths.

    Args:
        location: a folder; or a text file with one path in each line, relative to the folder of the file. Of a folder,
            the files whose names end as those of images do (`image_files.SUFFIXES`) are read, hidden ones are not.
        channels: 1 for gray images, 3 for colors; by default 1 if all images are gray, else 3.
        bits: of images with 16 bits per channel, the number of low bits that their values use, 8 to 16.

    Raises:
        FileNotFoundError: if the folder or the text file does not exist.
        ValueError: if no file can be decoded, or images of 16 bits use fewer bits and `bits` is not given.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a" / "b").mkdir(parents=True)
    >>> for name in ("1.png", "a/2.png", "a/b/3.png"):
    ...     Image.new("RGB", (4, 4)).save(folder / name)
    >>> source = read_unlabeled(folder)
    >>> source.size, source.image_shape, source.has_labels
    (3, (4, 4, 3), False)
    """
    location = Path(location)
    files = find_images(location) if location.is_dir() else _listed(location)
    paths, headers = _readable(location, files)
    if bits is None:
        check_bits(location, paths)
    depth = channels or common_channels(headers)
    shape = (*(common_size(headers) or (None, None)), depth)
    logger.info(
        "%s: %d images without labels, %s, %s.",
        location,
        len(paths),
        "gray" if depth == 1 else "in colors",
        f"of {shape[:2]}" if shape[0] else "of several sizes",
    )

    def decode(index: tf.Tensor, row: dict) -> dict:
        image = call_python(lambda path: read_image(os.fsdecode(path), depth, bits or 16), [row["path"]], tf.uint8)
        return {"image": tf.ensure_shape(image, shape), "index": index}

    listing = [(os.path.relpath(path, location.parent), os.stat(path).st_size) for path in paths]
    digest = hashlib.sha256(repr([READER, depth, bits, listing]).encode()).hexdigest()
    columns = {"path": tf.constant([os.fsencode(path) for path in paths])}
    version = f"{location.name} unlabeled {digest}"
    return source_of_files(columns, decode, name=str(location), image_shape=shape, class_names=None, version=version)


def without_labels(source: Source) -> Source:
    """The same images without their labels.

    >>> examples = tf.data.Dataset.range(3).map(
    ...     lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "label": i, "index": i})
    >>> without_labels(Source(examples, name="black", size=3, classes=3)).has_labels
    False
    """
    if not source.has_labels:
        return source

    def strip(examples: tf.data.Dataset) -> tf.data.Dataset:
        return examples.map(lambda example: {"image": example["image"], "index": example["index"]})

    read_range = source.read_range
    return Source(
        strip(source.examples),
        name=source.name,
        size=source.size,
        image_shape=source.image_shape,
        version=f"{source.version} without labels",
        files=source.files,
        has_one_order=source.has_one_order,
        read_range=None if read_range is None else lambda begin, end: strip(read_range(begin, end)),
    )


def find_images(folder: Path) -> list[str]:
    """The files below a folder whose names end as those of images do, in the order of their paths.

    Hidden files and folders are left out, and so are the folders that other programs leave behind.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "b").mkdir()
    >>> for name in ("b/1.png", "a.jpg", ".hidden.png", "notes.txt"):
    ...     (folder / name).touch()
    >>> [os.path.relpath(path, folder) for path in find_images(folder)]
    ['a.jpg', 'b/1.png']
    """
    files, visited = [], set()
    for parent, names, inner in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in visited:  # a link to a folder that is read already, perhaps to one above
            names.clear()
            continue
        visited.add(place)
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in IGNORED)
        kept = [name for name in inner if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
        files += [os.path.join(parent, name) for name in kept]
    return sorted(files)


def _listed(file: Path) -> list[str]:
    """The files that a text file lists, without repetitions."""
    if not file.is_file():
        raise FileNotFoundError(f"Expected a folder of images or a text file that lists them, but {file} is neither.")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(explain_mismatch(f"a text file of paths as {file}", "a file that is not text")) from error
    return list(dict.fromkeys(os.path.join(file.parent, line.strip()) for line in lines if line.strip()))


def _readable(location: Path, files: Sequence[str]) -> tuple[list[str], list[Header]]:
    """The files that can be decoded, and their headers; a warning names the others.

    Raises:
        ValueError: if there is none.
    """
    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while it decodes
        results = list(pool.map(_try, files))
    reasons = [result for result in results if isinstance(result, str)]
    if len(reasons) == len(files):
        received = f"{len(files)} files, none of which is an image: {reasons[0]}" if files else "none"
        raise ValueError(explain_mismatch(f"images ({' '.join(SUFFIXES)}) in {location}", received))
    if reasons:
        more = f" And {len(reasons) - NAMED} more." if len(reasons) > NAMED else ""
        warnings.warn(
            f"{location}: {len(reasons)} of {len(files)} files cannot be read and are left out. "
            f"{' '.join(reasons[:NAMED])}{more}",
            stacklevel=4,
        )
    pairs = [(path, header) for path, header in zip(files, results, strict=True) if isinstance(header, Header)]
    return [path for path, _ in pairs], [header for _, header in pairs]


def _try(path: str) -> Header | str:
    """The header of an image, or a sentence why it cannot be read."""
    try:
        return check_image(path)
    except ValueError as error:
        return str(error)
