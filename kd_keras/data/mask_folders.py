"""Opens a folder of images and masks as a source: each mask has the name of its image."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile

from kd_keras.data.annotations import image_files
from kd_keras.data.base import Source
from kd_keras.data.file_sources import file_ranges, source_of_files
from kd_keras.data.image_files import (
    SUFFIXES,
    Header,
    check_full_range,
    common_channels,
    common_size,
    png_header,
    read_header,
    read_image,
    upright,
)
from kd_keras.data.mask_values import MaskValues, Value, make_mask_values
from kd_keras.data.python_calls import call_python
from kd_keras.errors import explain_mismatch, suggest

MASK_SUFFIXES = (".bmp", ".pgm", ".png", ".ppm", ".tif", ".tiff")  # of lossless formats
NAME_FILES = ("classes.json", "classes.txt")


def read_mask_folder(
    folder: str | os.PathLike,
    split: str,
    class_names: Sequence[str] | Mapping[str, Value] | None = None,
    ignored: Value | Sequence[Value] = (),
    channels: int | None = None,
) -> Source:
    """Opens a folder of images and masks as a source.

    There are three layouts: `FOLDER/images/<split>` with `FOLDER/masks/<split>`, `FOLDER/<split>/images` with
    `FOLDER/<split>/masks`, and with a single split, "train" or "all", `FOLDER/images` with `FOLDER/masks`. A mask is a
    PNG, BMP, TIFF or PNM with the name of its image: the number of the class of each pixel (of a palette image the
    index), or colors.

    Args:
        folder: the folder.
        split: one of its splits.
        class_names: K names, whose values are 0 to K - 1; or the value, a number or a color, of each class by its name.
            By default the content of `classes.json` (a list or an object) or `classes.txt` (one name on each line).
        ignored: values of pixels that belong to no class.
        channels: 1 for gray images, 3 for colors; by default 1 if all images are gray, else 3.

    Raises:
        ValueError: if the split is unknown, there are no names of classes, or a mask has another size than its image;
            the message names the file. A mask with a value of no class raises `tf.errors.InvalidArgumentError` when
            its example is read.
        FileNotFoundError: if there is no image, or an image has no mask, or a mask no image.
    """
    folder = Path(folder)
    images, masks = _find_folders(folder, split)
    values = make_mask_values(_read_names(folder) if class_names is None else class_names, ignored)
    pairs = _find_pairs(images, masks)
    headers = [_read_header(*pair) for pair in pairs]
    check_full_range(str(images), [image for image, _ in pairs])
    depth = channels or common_channels(headers)
    size = common_size(headers) or (None, None)
    paths = tf.constant([[os.fsencode(path) for path in pair] for pair in pairs])

    def read(image: bytes, mask: bytes) -> tuple[np.ndarray, np.ndarray]:
        return read_image(os.fsdecode(image), depth), read_mask(os.fsdecode(mask), values)

    def decode(index: tf.Tensor, row: tf.Tensor) -> dict:
        image, mask = call_python(read, [row[0], row[1]], [tf.uint8, tf.int32])
        image, mask = tf.ensure_shape(image, (*size, depth)), tf.ensure_shape(mask, size)
        return {"image": image, "index": index, "label": mask}

    listing = [(file.name, file.stat().st_size) for pair in pairs for file in pair]
    digest = hashlib.sha256(repr([depth, values, listing]).encode()).hexdigest()
    return source_of_files(
        paths,
        decode,
        name=f"{folder} {split}",
        image_shape=(*size, depth),
        class_names=values.names,
        version=f"{folder.name} {split} {digest}",
        ranges=file_ranges(image for image, _ in pairs),
    )


def has_masks(folder: str | os.PathLike) -> bool:
    """Whether a folder has one of the layouts of `read_mask_folder`.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("images", "masks"):
    ...     (folder / "train" / name).mkdir(parents=True)
    >>> has_masks(folder), has_masks(folder / "train" / "images")
    (True, False)
    """
    masks = [path for pattern in ("masks", "*/masks") for path in Path(folder).glob(pattern)]
    return any(path.is_dir() and (path.parent / "images").is_dir() for path in masks)


def names_classes(folder: str | os.PathLike) -> bool:
    """Whether a folder has a file with the names of the classes."""
    return any((Path(folder) / name).is_file() for name in NAME_FILES)


def read_mask(path: str | os.PathLike, values: MaskValues) -> np.ndarray:
    """The class of each pixel of a mask, `(H, W)` int32.

    Raises:
        ValueError: if the file cannot be decoded, or a value belongs to no class; the message names the file.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/mask.png"
    >>> Image.fromarray(np.array([[0, 1, 255]], "uint8")).save(path)
    >>> read_mask(path, make_mask_values(("road", "car"), ignored=255)).tolist()
    [[0, 1, -1]]
    """
    try:
        with open(path, "rb") as file, Image.open(file) as opened:
            scale = _gray_scale(opened, path)
            opened.load()
            image = upright(opened)
            bands = len(image.getbands())
            if values.are_colors or bands > 2:
                pixels = np.asarray(image.convert("RGB"))
            elif bands == 2:  # the second one is transparency
                pixels = np.asarray(image.getchannel(0))
            else:
                pixels = np.round(np.asarray(image) / scale).astype("int64")
    except Exception as error:  # Pillow raises many types for damaged files
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ValueError(f"{os.fspath(path)} is not a mask that can be decoded: {reason}.") from error
    return values.to_classes(pixels, os.fspath(path))


def _gray_scale(image: Image.Image, path: str | os.PathLike) -> float:
    """By what Pillow multiplies the values of a gray file that is not yet loaded.

    A PNG of 2 or 4 bits is stretched to 0..255, a PGM from its own highest value to 255 or 65535.
    """
    if isinstance(image, PpmImageFile) and isinstance(image.tile[0][3], tuple):
        _, highest = image.tile[0][3]
        return (65535 if image.mode == "I" else 255) / highest
    if image.format != "PNG":
        return 1
    bits, color_type = png_header(path)
    if bits == 16 and color_type != 0:
        raise ValueError("of 16 bits per channel only the upper 8 bits can be read. Save it with 8 bits")
    return 255 // (2**bits - 1) if color_type == 0 and bits in (2, 4) else 1


def _find_folders(folder: Path, split: str) -> tuple[Path, Path]:
    """The folder of the images of a split, and that of its masks."""
    pairs = [
        (folder / "images" / split, folder / "masks" / split),
        (folder / split / "images", folder / split / "masks"),
    ]
    has_splits = any(path.is_dir() for path in folder.glob("masks/*"))
    if split in ("train", "all") and not has_splits:
        pairs.append((folder / "images", folder / "masks"))
    for images, masks in pairs:
        if images.is_dir() and masks.is_dir():
            return images, masks
    splits = {path.parent.name for path in folder.glob("*/masks")}
    splits |= {path.name for path in folder.glob("masks/*") if path.is_dir()}
    advice = suggest(split, sorted(splits)) if splits else "name the folders images/ and masks/"
    raise ValueError(explain_mismatch(f"a split of {folder} with images and masks", repr(split), advice))


def _find_pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Each image with its mask, in the order of their names."""
    files = image_files(images)
    if not files:
        raise FileNotFoundError(f"Expected images in {images}, but found none ({' '.join(SUFFIXES)}).")
    stems = Counter(file.stem for file in files)
    repeated = sorted(stem for stem, count in stems.items() if count > 1)
    if repeated:
        raise ValueError(explain_mismatch(f"one image for each mask in {images}", f"several called {repeated}"))
    by_stem: dict[str, Path] = {}
    for mask in image_files(masks):
        if mask.suffix.lower() not in MASK_SUFFIXES:
            advice = "a lossy format changes the classes: save the mask as PNG"
            raise ValueError(explain_mismatch(f"masks of the types {' '.join(MASK_SUFFIXES)}", str(mask), advice))
        if mask.stem not in stems:
            raise FileNotFoundError(f"Expected an image for {mask} in {images}, but it is missing.")
        if mask.stem in by_stem:
            raise ValueError(explain_mismatch(f"one mask called {mask.stem!r} in {masks}", "several"))
        by_stem[mask.stem] = mask
    for file in files:
        if file.stem not in by_stem:
            raise FileNotFoundError(f"Expected a mask for {file} in {masks}, but it is missing.")
    return [(file, by_stem[file.stem]) for file in files]


def _read_header(image: Path, mask: Path) -> Header:
    """The header of an image, whose mask has the same size."""
    header, mask_size = read_header(image), read_header(mask).size
    if mask_size != header.size:
        expected = f"a mask of height and width {header.size}, the size of {image}"
        raise ValueError(explain_mismatch(expected, f"{mask_size} in {mask}", "make the mask again at this size"))
    return header


def _read_names(folder: Path) -> Sequence[str] | Mapping[str, Value]:
    """The names of the classes that a folder has."""
    listed, lines = (folder / name for name in NAME_FILES)
    if listed.is_file():
        names = json.loads(listed.read_text(encoding="utf-8"))
        if not isinstance(names, (list, dict)) or not names:
            raise ValueError(explain_mismatch(f"a list of names, or values by name, in {listed}", repr(names)))
        return names
    if lines.is_file():
        return [line.strip() for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
    expected = f"the names of the classes in {folder} ({' or '.join(NAME_FILES)})"
    raise ValueError(explain_mismatch(expected, "no such file", 'pass class_names=("first", "second", ...)'))
