"""A contact sheet: many images with captions in one PNG."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_keras.data.image_files import read_image
from kd_keras.files import write_atomically

LOGGER = logging.getLogger("kd_keras")
LARGEST = 200  # images on a sheet
TILE, LINE, GAP = 128, 14, 8  # pixels: of an image, of a line of text, between two images


def write_sheet(path: Path, captions: Mapping[Path, tuple[str, ...]]) -> None:
    """Writes a contact sheet.

    Args:
        path: of the PNG file.
        captions: the lines below each image, by the path of its file; the images after the first 200 are left out.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (40, 20), "red").save(folder / "red.png")
    >>> write_sheet(folder / "sheet.png", {folder / "red.png": ("red 99%", "red.png")})
    >>> Image.open(folder / "sheet.png").size
    (144, 172)
    """
    from PIL import Image, ImageDraw, ImageFont

    entries = list(captions.items())[:LARGEST]
    if len(captions) > LARGEST:
        LOGGER.info("%s shows the first %d of %s images.", path, LARGEST, f"{len(captions):,}")
    columns = math.ceil(math.sqrt(len(entries)))
    lines = max(len(texts) for _, texts in entries)
    width, height = TILE + GAP, TILE + lines * LINE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, math.ceil(len(entries) / columns) * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for place, (file, texts) in enumerate(entries):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        picture = Image.fromarray(read_image(file, 3))
        scale = TILE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        # The pixels of small images stay visible.
        form = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        sheet.paste(picture.resize(size, form), (left + (TILE - size[0]) // 2, top + (TILE - size[1]) // 2))
        for number, text in enumerate(texts):
            pen.text((left, top + TILE + number * LINE), _cut(text, font), fill="black", font=font)
    write_atomically(path, lambda name: sheet.save(name, "PNG"))


def _cut(text: str, font: Any) -> str:
    """A text, or of one that is too wide for an image its end after "~"; in characters that every font has."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    if font.getlength(text) <= TILE:
        return text
    return next(end for start in range(len(text)) if font.getlength(end := f"~{text[start:]}") <= TILE)
