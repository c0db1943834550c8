"""Reads image files as people have them, the way an image viewer shows them.

Pillow decodes: JPEG (also CMYK), PNG, WebP, BMP, GIF, TIFF and PNM. The orientation in EXIF is applied, transparent
pixels are blended onto white, and an animation is its first frame. TensorFlow's decoder reads 16-bit PNG, of which
Pillow keeps only the upper 8 bits if it has colors.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
DEEP_SUFFIXES = (".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff")  # of formats that may have 16 bits per channel
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and tf.image convert colors to gray
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


class Header(NamedTuple):
    """What an image file says about itself before its pixels are decoded.

    Attributes:
        size: `(H, W)` after the orientation is applied.
        is_gray: whether it has no colors.
        is_deep: whether it has 16 bits per channel.
    """

    size: tuple[int, int]
    is_gray: bool
    is_deep: bool


def read_header(path: str | os.PathLike) -> Header:
    """Reads the header of an image file.

    Raises:
        ValueError: if the file is not an image that can be decoded; the message names it.
    """
    with _opened(path) as image:
        width, height = image.size
        # Pillow already swaps the sides of a turned TIFF.
        if image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        return Header((height, width), _is_gray(image, path), _is_deep(image, path))


def check_image(path: str | os.PathLike) -> Header:
    """Reads the header of an image file, and decodes the file to find out whether it is damaged.

    A JPEG is decoded at an eighth of its size, which takes a fraction of the time and fails for the same files.

    Raises:
        ValueError: if the file is not an image that can be decoded; the message names it.
    """
    header = read_header(path)
    if header.is_deep:
        highest_value(path)
        return header
    with _opened(path) as image:
        image.draft(None, (1, 1))
        image.load()
    return header


def common_channels(headers: Iterable[Header]) -> int:
    """1 if all images are gray, else 3; reads no further than the first image with colors."""
    return 1 if all(header.is_gray for header in headers) else 3


def common_size(headers: Iterable[Header]) -> tuple[int, int] | None:
    """The size of all images, or `None` if they differ; reads no further than the first that differs."""
    headers = iter(headers)
    first = next(headers).size
    return first if all(header.size == first for header in headers) else None


def highest_value(path: str | os.PathLike) -> int:
    """The highest value of the pixels of a 16-bit image, 0 to 65535.

    Raises:
        ValueError: if the file cannot be decoded; the message names it.
    """
    with _opened(path) as image:
        values, _ = _deep_pixels(image, path)
        return int(values.max())


def check_full_range(name: str, paths: Iterable[str | os.PathLike], advice: str = "Convert them to 8 bits.") -> None:
    """Checks that 16-bit images use their range; reads no further than the first that does.

    Cameras and scanners store 10 or 12 bits in such files. They would be read as nearly black images.

    Args:
        name: of the images, for the message.
        paths: the files; those that are black do not count.
        advice: what to do; "{bits}" becomes the number of bits that are used, and "{highest}" their highest value.

    Raises:
        ValueError: if they use less than half of it.
    """
    highest, example = 0, None
    for path in paths:
        if os.path.splitext(path)[1].lower() in DEEP_SUFFIXES and read_header(path).is_deep:
            value = highest_value(path)
            example = path if value > highest else example
            highest = max(highest, value)
            if highest >= 2**15:
                return
    if example is not None:
        bits = max(8, highest.bit_length())
        raise ValueError(
            f"Images of 16 bits per channel in {name} must have values up to 65535, but the highest value is "
            f"{highest}, for example in {os.fspath(example)}. {advice.format(bits=bits, highest=2**bits - 1)}"
        )


def read_image(path: str | os.PathLike, channels: int | None = None, bits: int = 16) -> np.ndarray:
    """Reads an image file as 8-bit pixels, as `data.load` reads the images of a folder.

    Args:
        path: the file.
        channels: 1 for gray, 3 for colors, or `None` for what the file has. Colors become gray by their luminance.
        bits: of a file with 16 bits per channel, the number of low bits that its values use: 12 for values from 0 to
            4095. They are scaled to 0..255.

    Returns:
        `(H, W, C)` uint8.

    Raises:
        ValueError: if the file is not an image that can be decoded, or has pixels of another type than 8 or 16 bits.
            The message names it.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/red.png"
    >>> Image.new("RGB", (2, 1), (255, 0, 0)).save(path)
    >>> read_image(path).tolist(), read_image(path, channels=1).tolist()
    ([[[255, 0, 0], [255, 0, 0]]], [[[76], [76]]])
    """
    with _opened(path) as image:
        channels = channels or (1 if _is_gray(image, path) else 3)
        if _is_deep(image, path):
            return _convert_deep(image, path, channels, 2**bits - 1)
        image.load()
        flat = _on_white(upright(image)).convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(flat)
        return pixels[..., None] if channels == 1 else pixels


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """An open image file; every error names the file."""
    try:
        # Pillow maps a file that it opens by its path, and does not turn the pixels of a mapped TIFF.
        with open(path, "rb") as file, Image.open(file) as image:
            if image.mode in ("F", "LAB", "HSV") or (image.mode == "I" and not _is_deep(image, path)):
                raise TypeError(f"its pixels are of the type {image.mode}. Convert it to 8 or 16 bits per channel")
            yield image
    except Exception as error:  # Pillow raises many types for damaged files
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ValueError(f"{os.fspath(path)} is not an image that can be decoded: {reason}.") from error


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # otherwise Pillow would decode the whole image to look for it
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data; viewers show such an image as it is stored
        return 1


def upright(image: Image.Image) -> Image.Image:
    """A decoded image, turned as its EXIF data says."""
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.mode.upper() and "transparency" not in image.info:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _is_gray(image: Image.Image, path: str | os.PathLike) -> bool:
    if image.format == "PNG" and png_header(path)[0] == 16:
        return png_header(path)[1] in (0, 4)  # Pillow reads gray with transparency as colors
    if image.mode in ("P", "PA"):
        colors = np.asarray(image.getpalette("RGB"), "uint8").reshape(-1, 3)
        return bool((colors == colors[:, :1]).all())
    return image.mode[0] in "1LI"


def _is_deep(image: Image.Image, path: str | os.PathLike) -> bool:
    if image.format == "PNG":
        return png_header(path)[0] == 16
    if isinstance(image, TiffImageFile):
        return image.mode.startswith("I;16") or max(image.tag_v2.get(BITSPERSAMPLE, (8,))) == 16
    return image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")


def png_header(path: str | os.PathLike) -> tuple[int, int]:
    """The bits per channel of a PNG, and its color type."""
    with open(path, "rb") as file:
        bits, color_type = file.read(26)[24:]
    return bits, color_type


def _deep_pixels(image: Image.Image, path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """The values `(H, W, C)` 0..65535 of a 16-bit image as stored, and its opacity `(H, W, 1)` 0..1 or `None`."""
    if image.format == "PNG":
        values = tf.io.decode_png(tf.io.read_file(os.fspath(path)), dtype=tf.uint16).numpy()
    elif image.mode[0] == "I":
        values = np.asarray(image).astype("int64")[..., None]
    else:  # a TIFF with colors, of which Pillow keeps the upper 8 bits
        values = np.asarray(image.convert("RGBA" if "A" in image.mode else "RGB")).astype("int64") * 257
    opacity = values[..., -1:] / 65535 if values.shape[-1] in (2, 4) else None
    return values[..., : 1 if values.shape[-1] < 3 else 3], opacity


def _convert_deep(image: Image.Image, path: str | os.PathLike, channels: int, highest: int) -> np.ndarray:
    """The 8-bit pixels `(H, W, C)` of a 16-bit image whose values go from 0 to `highest`."""
    turn = TURNS.get(_orientation(image))
    if image.format == "TIFF" and image.mode[0] != "I" and highest < 65535:
        raise ValueError("of a TIFF with colors only the upper 8 bits can be read. Convert it to a PNG of 16 bits")
    values, opacity = _deep_pixels(image, path)
    pixels = np.minimum(values * (255 / highest), 255)
    if opacity is not None:
        pixels = 255 + (pixels - 255) * opacity
    if pixels.shape[-1] == 3 and channels == 1:
        pixels = pixels @ np.array(LUMINANCE)[:, None]
    pixels = np.repeat(np.round(pixels).astype("uint8"), channels // pixels.shape[-1], axis=-1)
    if turn is None or image.format == "TIFF":  # Pillow turns a TIFF when it decodes it
        return pixels
    planes = [np.asarray(Image.fromarray(pixels[..., channel]).transpose(turn)) for channel in range(channels)]
    return np.stack(planes, axis=-1)
