"""A contact sheet: many images with captions in one PNG, as they are or drawn on, with a key of colors."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_keras.data.image_files import read_image
from kd_keras.files import write_atomically

LOGGER = logging.getLogger("kd_keras")
LARGEST = 200  # images on a sheet
TILE, LINE, GAP = 128, 14, 8  # pixels: of an image, of a line of text, between two images
KEY = 120  # pixels: the width of a name in the key


def write_sheet(
    path: Path,
    captions: Mapping[Path, tuple[str, ...]],
    *,
    draw: Callable[[Path, np.ndarray], np.ndarray] | None = None,
    side: int = TILE,
    most: int = LARGEST,
    key: Mapping[str, tuple[int, int, int]] | None = None,
    bits: int = 16,
) -> None:
    """Writes a contact sheet.

    Args:
        path: of the PNG file.
        captions: the lines below each image, by the path of its file.
        draw: from the path of an image and its pixels `(h, w, 3)` uint8, whose longer side is `side`, to the pixels
            that are shown, of the same size.
        side: the width and the height of the space for an image, in pixels.
        most: the largest number of images; those after it are left out.
        key: the colors (red, green, blue) that a key below the images explains, by their names.
        bits: of images with 16 bits per channel, the number of low bits that their values use.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (40, 20), "red").save(folder / "red.png")
    >>> write_sheet(folder / "sheet.png", {folder / "red.png": ("red 99%", "red.png")})
    >>> Image.open(folder / "sheet.png").size
    (144, 172)
    """
    from PIL import Image, ImageDraw, ImageFont

    entries = list(captions.items())[:most]
    if len(captions) > most:
        LOGGER.info("%s shows the first %d of %s images.", path, most, f"{len(captions):,}")
    columns = math.ceil(math.sqrt(len(entries)))
    lines = max(len(texts) for _, texts in entries)
    width, height = side + GAP, side + lines * LINE + GAP
    size = (columns * width + GAP, math.ceil(len(entries) / columns) * height + GAP)
    sheet = Image.new("RGB", (size[0], size[1] + _key_height(key or {}, size[0])), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, (file, texts) in enumerate(entries):
        left, top = GAP + index % columns * width, GAP + index // columns * height
        picture = _resized(Image.fromarray(read_image(file, 3, bits)), side)
        if draw is not None:
            picture = Image.fromarray(draw(file, np.asarray(picture)))
        sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
        for number, text in enumerate(texts):
            pen.text((left, top + side + number * LINE), _cut(text, font, side), fill="black", font=font)
    _draw_key(pen, key or {}, size, font)
    write_atomically(path, lambda name: sheet.save(name, "PNG"))


def printable(text: str) -> str:
    """A text in characters that every font has; a question mark stands for others.

    >>> printable("naïve 猫")
    'naïve ?'
    """
    return text.encode("latin-1", "replace").decode("latin-1")


def _resized(picture: Any, side: int) -> Any:
    """A picture whose longer side has `side` pixels; the pixels of small images stay visible."""
    from PIL import Image

    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _key_columns(width: int) -> int:
    return max(1, (width - GAP) // KEY)


def _key_height(key: Mapping[str, Any], width: int) -> int:
    return math.ceil(len(key) / _key_columns(width)) * (LINE + 4) + (GAP if key else 0)


def _draw_key(pen: Any, key: Mapping[str, tuple[int, int, int]], size: tuple[int, int], font: Any) -> None:
    """Draws the colors with their names below a sheet of a size `(width, height)`."""
    for index, (name, color) in enumerate(key.items()):
        row, column = divmod(index, _key_columns(size[0]))
        left, top = GAP + column * KEY, size[1] + row * (LINE + 4)
        pen.rectangle((left, top, left + LINE, top + LINE), fill=color, outline="black")
        pen.text((left + LINE + 4, top + 1), _cut(name, font, KEY - LINE - 8), fill="black", font=font)


def _cut(text: str, font: Any, width: int) -> str:
    """A text in characters that every font has; of a text that is too wide only the end, after "~"."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    return next(end for start in range(len(text)) if font.getlength(end := f"~{text[start:]}") <= width)
