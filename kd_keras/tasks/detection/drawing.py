"""Boxes drawn on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from kd_keras.report.contact_sheet import printable

# Okabe and Ito's colors, which people with color blindness can tell apart; classes beyond take them again.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
COLOR_NAMES = ("orange", "light blue", "green", "yellow", "pink", "red", "blue")
LONGER_SIDE = 360  # pixels of a drawing
DASH = 5
Line: TypeAlias = "tuple[tuple[float, float], tuple[float, float]]"


class DrawnBox(NamedTuple):
    """A box to draw.

    Attributes:
        box: ymin, xmin, ymax and xmax as fractions of the image's sides.
        label: its class, which decides the color.
        is_dashed: whether its line is dashed.
        is_wide: whether its line is wide.
        text: on its upper left corner, such as the name of the class; may be empty.
    """

    box: Sequence[float]
    label: int
    is_dashed: bool = False
    is_wide: bool = False
    text: str = ""


def draw_on_image(image: np.ndarray, boxes: Sequence[DrawnBox]) -> np.ndarray:
    """An enlarged image with boxes on it.

    Args:
        image: `(H, W)`, `(H, W, 1)` or `(H, W, 3)` uint8.
        boxes: in the order in which they are drawn.

    Returns:
        `(H', W', 3)` uint8, whose longer side has 360 pixels.

    >>> drawn = draw_on_image(np.zeros((10, 20, 3), "uint8"), [DrawnBox((0.25, 0.25, 0.75, 0.75), 0)])
    >>> drawn.shape, drawn[45, 90].tolist(), drawn[90, 180].tolist()
    ((180, 360, 3), [230, 159, 0], [0, 0, 0])
    """
    from PIL import Image, ImageDraw

    image = np.asarray(image)
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image).convert("RGB")
    scale = LONGER_SIDE / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    pen = ImageDraw.Draw(picture)
    for drawn in boxes:
        ymin, xmin, ymax, xmax = drawn.box
        corners = (xmin * picture.width, ymin * picture.height, xmax * picture.width, ymax * picture.height)
        color, width = COLORS[drawn.label % len(COLORS)], 5 if drawn.is_wide else 3
        lines = _dashes(*corners) if drawn.is_dashed else _sides(*corners)
        for fill, extra in (("black", 2), (color, 0)):  # a dark edge, so that a line is visible on any image
            for start, end in lines:
                pen.line([*start, *end], fill=fill, width=width + extra)
    for drawn in boxes:  # after all lines, which would cross them
        if drawn.text:
            corner = (drawn.box[1] * picture.width, drawn.box[0] * picture.height)
            _write(pen, picture.size, corner, drawn.text, COLORS[drawn.label % len(COLORS)])
    return np.asarray(picture)


def _write(pen: Any, size: tuple[int, int], corner: tuple[float, float], text: str, color: str) -> None:
    """Writes a text on a color, above a corner if there is room, and inside the image."""
    text = printable(text)
    _, _, width, height = pen.textbbox((0, 0), text)
    x, y = max(0, min(corner[0], size[0] - width - 3)), corner[1] - height - 3
    y = y if y >= 0 else max(0, min(corner[1], size[1] - height - 3))
    pen.rectangle((x, y, x + width + 3, y + height + 3), fill=color)
    pen.text((x + 2, y + 1), text, fill="black")


def _sides(x0: float, y0: float, x1: float, y1: float) -> list[Line]:
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    return list(zip(corners[:-1], corners[1:], strict=True))


def _dashes(x0: float, y0: float, x1: float, y1: float) -> list[Line]:
    pieces: list[Line] = []
    for start, end in _sides(x0, y0, x1, y1):
        begin, change = np.array(start), np.array(end) - np.array(start)
        count = max(1, int(np.abs(change).sum() / DASH))
        for index in range(0, count, 2):
            first, last = begin + change * index / count, begin + change * (index + 1) / count
            pieces.append(((float(first[0]), float(first[1])), (float(last[0]), float(last[1]))))
    return pieces
