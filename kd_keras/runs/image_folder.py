"""The images of any folder or file, for `predict` and `embed`: unlabeled, nested, of any size and format."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_keras.data.examples import resize_pixels
from kd_keras.data.folders import check_bits
from kd_keras.data.image_files import DEEP_SUFFIXES, SUFFIXES, check_image, read_header, read_image
from kd_keras.data.unlabeled import find_images
from kd_keras.errors import explain_mismatch, shorten
from kd_keras.runs.run import Trained, find_run

LOGGER = logging.getLogger("kd_keras")
NAMED = 5  # the number of unreadable files that a message lists


class ImageBatch(NamedTuple):
    """Images as a network reads them.

    Attributes:
        files: B paths in the folder, with `/` between folders.
        images: `(B, H, W, C)` uint8.
        sizes: B original sizes `(height, width)`, after the orientation in EXIF is applied.
    """

    files: list[str]
    images: np.ndarray
    sizes: list[tuple[int, int]]


@dataclass
class ImageFolder:
    """The image files below a folder in the order of their paths, or a single file.

    Attributes:
        root: the folder, or that of the single file.
        paths: of the files.
        is_single: whether it is a single file.
        bits: of images with 16 bits per channel, the number of low bits that their values use.
        unreadable: after `batches`, the reason for each file that cannot be read.
    """

    root: Path
    paths: Sequence[Path]
    is_single: bool = False
    bits: int = 16
    unreadable: dict[str, str] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        """The path of a file in the folder, with `/` between folders."""
        return path.relative_to(self.root).as_posix()

    def batches(self, shape: tuple[int, int, int], batch_size: int) -> Iterator[ImageBatch]:
        """The readable images, resized as test images are.

        Args:
            shape: `(H, W, C)` of the images.
            batch_size: the largest number of images B in a batch.

        Raises:
            ValueError: after the last file, if none can be read.
        """
        count = 0
        files: list[str] = []
        images: list[np.ndarray] = []
        sizes: list[tuple[int, int]] = []
        for path in self.paths:
            try:
                image = read_image(path, shape[2], self.bits)
            except ValueError as error:
                self.unreadable[self.name(path)] = str(error)
                continue
            files.append(self.name(path))
            sizes.append((image.shape[0], image.shape[1]))
            images.append(image if image.shape[:2] == shape[:2] else resize_pixels(image, shape[:2]).numpy())
            count += 1
            if len(files) == batch_size:
                yield ImageBatch(files, np.stack(images), sizes)
                files, images, sizes = [], [], []
        if files:
            yield ImageBatch(files, np.stack(images), sizes)
        if not count:
            raise ValueError(f"None of the {len(self.paths)} images can be read: {self._reasons()}")
        if self.unreadable:
            LOGGER.warning("%d of %d files are skipped: %s", len(self.unreadable), len(self.paths), self._reasons())

    def _reasons(self) -> str:
        more = len(self.unreadable) - NAMED
        return " ".join(list(self.unreadable.values())[:NAMED]) + (f" And {more} more." if more > 0 else "")


def find_files(images: str | os.PathLike) -> ImageFolder:
    """Finds the image files at a path. Hidden files and folders are left out.

    Args:
        images: a file, or a folder with images at any depth.

    Raises:
        TypeError: if it is no path.
        ValueError: if the path does not exist, or there is no image.
    """
    if not isinstance(images, (str, os.PathLike)):
        advice = "for images in memory call the network, run.model()(images)"
        received = f"{shorten(images)} ({type(images).__name__})"
        raise TypeError(explain_mismatch("the path of a folder of images or of an image file", received, advice))
    root = Path(images)
    if root.is_file():
        return ImageFolder(root.parent, [root], is_single=True)
    if not root.is_dir():
        raise ValueError(explain_mismatch("a folder of images or an image file", f"{root}, which does not exist"))
    paths = [Path(path) for path in find_images(root)]
    if not paths:
        expected = f"images ({' '.join(SUFFIXES)}) in {root} or its folders"
        raise ValueError(explain_mismatch(expected, "none"))
    return ImageFolder(root, paths)


def set_bits(folder: ImageFolder, bits: int | None, source: Trained) -> None:
    """Sets how many bits the values of images with 16 bits per channel use.

    Args:
        folder: the images.
        bits: 8 to 16, or `None` for those of the network's run; if it does not say it, the images must use all 16.
        source: the network.

    Raises:
        ValueError: if the number is out of range, or if images of 16 bits per channel use fewer and nothing says it.
    """
    run = find_run(source)
    if bits is None and run is not None and "image_bits" in run.settings:
        bits = int(str(run.settings["image_bits"]))
    if bits is None:
        check_bits(folder.root, [os.fspath(path) for path in folder.paths if _is_deep(path)])
    elif bits not in range(8, 17):
        raise ValueError(explain_mismatch("image_bits= from 8 to 16", repr(bits)))
    else:
        folder.bits = bits


def _is_deep(path: Path) -> bool:
    """Whether a file is an image of 16 bits per channel that can be decoded."""
    try:
        return path.suffix.lower() in DEEP_SUFFIXES and read_header(path).is_deep and check_image(path).is_deep
    except ValueError:
        return False  # `batches` skips it
