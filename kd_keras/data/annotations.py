"""Images with annotated boxes in files, whatever their format, as a source whose labels are padded boxes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kd_keras.data.base import Source
from kd_keras.data.file_sources import file_ranges, source_of_files
from kd_keras.data.image_files import (
    SUFFIXES,
    Header,
    check_full_range,
    common_channels,
    common_size,
    read_header,
    read_image,
)
from kd_keras.data.python_calls import call_python
from kd_keras.detection.boxes import NO_OBJECT, BoxFormat, convert_boxes
from kd_keras.errors import check_integer, explain_mismatch

TOLERANCE = 1.0  # pixels that a box may exceed its image by, because annotation programs round; it is then clipped


class Object(NamedTuple):
    """One annotated object.

    Attributes:
        box: four numbers in the format of the file.
        number: the class, from 0.
        place: the file and the line, for error messages.
    """

    box: tuple[float, ...]
    number: int
    place: str


class AnnotatedImage(NamedTuple):
    """One image with its objects.

    Attributes:
        path: the image's file.
        objects: none for an image without objects.
        place: where the image is annotated, for error messages.
        size: `(H, W)` according to the annotation, or `None` if it does not say.
    """

    path: Path
    objects: tuple[Object, ...]
    place: str
    size: tuple[int, int] | None = None


def annotated_source(
    images: Sequence[AnnotatedImage],
    box_format: BoxFormat,
    class_names: tuple[str, ...],
    *,
    name: str,
    max_boxes: int | None = None,
    channels: int | None = None,
) -> Source:
    """A source of annotated images, in the order in which they are given.

    Args:
        images: the images and their objects.
        box_format: the format of all boxes.
        class_names: K names.
        name: of the source.
        max_boxes: N, the number of rows of each label; by default the largest number of objects in an image.
        channels: 1 for gray images, 3 for colors; by default 1 if all images are gray, else 3.

    Raises:
        FileNotFoundError: if there is no image, or one is missing; the message names its annotation.
        ValueError: if a box has no width or height or is outside its image, an image has more than `max_boxes` objects,
            another size than its annotation says or two annotations, or images of 16 bits use fewer; the message names
            the file and the line.
    """
    if not images:
        raise FileNotFoundError(f"Expected annotated images in {name}, but found none ({' '.join(SUFFIXES)}).")
    _check_paths(images)
    headers = [_read_header(image) for image in images]
    check_full_range(name, [image.path for image in images])
    boxes, classes = _padded_labels(images, headers, box_format, max_boxes)
    depth = channels or common_channels(headers)
    shape = (*(common_size(headers) or (None, None)), depth)
    paths = tf.constant([os.fsencode(image.path) for image in images])

    def decode(index: tf.Tensor, row: tuple[tf.Tensor, dict]) -> dict:
        image = call_python(lambda path: read_image(os.fsdecode(path), depth), [row[0]], tf.uint8)
        return {"image": tf.ensure_shape(image, shape), "index": index, "label": row[1]}

    listing = [(image.path.name, image.path.stat().st_size) for image in images]
    digest = hashlib.sha256(repr([depth, listing]).encode() + boxes.tobytes() + classes.tobytes()).hexdigest()
    columns, version = (paths, {"boxes": boxes, "classes": classes}), f"{Path(name).name} {digest}"
    ranges = file_ranges(image.path for image in images)
    return source_of_files(
        columns, decode, name=name, image_shape=shape, class_names=class_names, version=version, ranges=ranges
    )


def _check_paths(images: Sequence[AnnotatedImage]) -> None:
    """Rejects two annotations of one image, which would be read once with the objects of each."""
    counts = Counter(image.path for image in images)
    repeated = [image for image in images if counts[image.path] > 1]
    if repeated:
        places = " and ".join(image.place for image in repeated if image.path == repeated[0].path)
        advice = "annotate the image once, with all of its objects"
        raise ValueError(explain_mismatch(f"one annotation of {repeated[0].path}", f"those at {places}", advice))


def _read_header(image: AnnotatedImage) -> Header:
    if not image.path.is_file():
        raise FileNotFoundError(f"Expected the image {image.path}, which {image.place} annotates, but it is missing.")
    header = read_header(image.path)
    if image.size is not None and image.size != header.size:
        expected = f"an image of height and width {image.size}, according to {image.place}"
        advice = "the boxes are of another version of the image: annotate it again, or restore the image"
        raise ValueError(explain_mismatch(expected, f"{header.size} in {image.path}", advice))
    return header


def _padded_labels(
    images: Sequence[AnnotatedImage], headers: Sequence[Header], box_format: BoxFormat, max_boxes: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes `(n, N, 4)`, "rel_yxyx", and the classes `(n, N)` of all images."""
    rows = max([1, *(len(image.objects) for image in images)])
    if max_boxes is not None:
        rows = check_integer("load_boxes", "max_boxes", max_boxes, least=1)
    boxes = np.zeros((len(images), rows, 4), "float32")
    classes = np.full((len(images), rows), NO_OBJECT, "int64")
    for number, (image, header) in enumerate(zip(images, headers, strict=True)):
        count = len(image.objects)
        if count > rows:
            expected = f"at most max_boxes={rows} objects in an image"
            raise ValueError(explain_mismatch(expected, f"{count} at {image.place}", f"pass max_boxes={count}"))
        if count:
            boxes[number, :count] = _relative_boxes(image, box_format, header.size)
            classes[number, :count] = [item.number for item in image.objects]
    return boxes, classes


def _relative_boxes(image: AnnotatedImage, box_format: BoxFormat, size: tuple[int, int]) -> np.ndarray:
    """The boxes of an image `(n, 4)` as fractions, clipped; checked with their places."""
    given = np.array([item.box for item in image.objects], "float64")
    pixels = np.asarray(convert_boxes(given, box_format, "xyxy", size))
    height, width = size
    clipped = np.clip(pixels, 0.0, [width, height, width, height])
    for item, box, part in zip(image.objects, pixels.tolist(), clipped.tolist(), strict=True):
        x0, y0, x1, y1 = box
        if not (x1 > x0 and y1 > y0):  # true for NaN, too
            expected = f"a box ({box_format}) with a positive width and height at {item.place}"
            raise ValueError(explain_mismatch(expected, str(tuple(item.box)), "correct the annotation, or remove it"))
        is_outside = not (part[2] > part[0] and part[3] > part[1])
        if is_outside or min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
            expected = f"a box ({box_format}) inside the image of height {height} and width {width} at {item.place}"
            raise ValueError(explain_mismatch(expected, str(tuple(item.box)), "correct the annotation, or remove it"))
    return np.asarray(convert_boxes(clipped, "xyxy", "rel_yxyx", size))


def find_class(name: str, class_names: Sequence[str], place: str) -> int:
    """The number of a class.

    Raises:
        ValueError: if it is unknown; the message names the place.
    """
    if name not in class_names:
        expected = f"one of the classes {', '.join(class_names)} at {place}"
        raise ValueError(explain_mismatch(expected, repr(name), "correct the annotation, or add it to class_names"))
    return list(class_names).index(name)


def read_lines(file: Path) -> list[str]:
    """The lines of a text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: if it has another encoding; the message names the file.
    """
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(explain_mismatch(f"a text in UTF-8 in {file}", str(error), "save it as UTF-8")) from error


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder in the order of their names, without hidden files and deeper folders."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
