"""Figures and images inside an HTML page: SVG in the page's colors, and images as data URIs.

A figure is drawn with the placeholder colors below. In the SVG they become CSS variables, so that one drawing works on
light pages, dark pages and paper. matplotlib and Pillow are imported in the functions that use them, because no other
room needs them.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import numpy as np

# Placeholders: each stands for a variable of the style sheet.
INK, SOFT, RULE, PAPER, HEAT = (f"#0a0a{index:02x}" for index in range(5))
SERIES = tuple(f"#0a0b{index:02x}" for index in range(7))
VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--rule", PAPER: "--paper", HEAT: "--heat"}
VARIABLES |= {color: f"--series-{index}" for index, color in enumerate(SERIES)}
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")  # control characters
PIXELATED = 100  # images of at most this size, in pixels, are stored without loss and shown with visible pixels
HEAT_STRENGTH = 0.75  # opacity of the heat color for 1: numbers on it stay legible on light and dark pages

STYLE = {
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "text.parse_math": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "svg.fonttype": "none",
}
SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


@contextlib.contextmanager
def axes(height: float, width: float = 320) -> Iterator[Any]:
    """Empty matplotlib axes in the style of the page; sizes are in CSS pixels, the font size is 10.5.

    >>> with axes(100) as ax:
    ...     _ = ax.plot([0, 1], [1, 0], color=INK)
    >>> "var(--ink)" in to_svg(ax.figure, "line", "A falling line")
    True
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        ax = figure.subplots()
        ax.set_facecolor("none")
        yield ax


def to_svg(figure: Any, name: str, alt: str) -> str:
    """A figure as an `<svg>` element inside HTML: without namespace, metadata and style sheet.

    Args:
        figure: a matplotlib figure.
        name: unique on the page; the ids of the elements begin with it.
        alt: the text alternative for readers who do not see the figure.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text.getvalue()))
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in (f"{SVG}style", f"{SVG}metadata")]:
            parent.remove(child)
    linked = {element.get(LINK, "#")[1:] for element in root.iter()}
    linked |= {element.get("clip-path", "url(#)")[5:-1] for element in root.iter()}
    for element in root.iter():
        _adapt_to_html(element, name, linked)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {"class": "plot", "viewBox": box, "role": "img", "aria-label": alt}
    root.set("style", f"--width: {float(box.split()[2]):.0f}px")  # as drawn; the style sheet limits the enlargement
    return ElementTree.tostring(root, encoding="unicode")


def _adapt_to_html(element: ElementTree.Element, name: str, linked: set[str]) -> None:
    """Removes the namespace and the ids without references, and replaces placeholder colors by variables."""
    element.tag = element.tag.removeprefix(SVG)
    if link := element.attrib.pop(LINK, ""):
        element.set("href", f"#{name}-{link[1:]}" if link.startswith("#") else "".join(link.split()))
    if clip := element.get("clip-path"):
        element.set("clip-path", f"url(#{name}-{clip[5:-1]})")
    if (identifier := element.attrib.pop("id", "")) in linked and identifier:
        element.set("id", f"{name}-{identifier}")
    if style := element.get("style"):
        style = re.sub(r"font-family:[^;]*;?\s*|(?<=px) '[^;]*", "", style)  # the font of the page
        style = style.replace("font: ", "font-size: ")
        element.set("style", re.sub("#[0-9a-f]{6}", lambda match: _variable(match[0]), style))


def _variable(color: str) -> str:
    return f"var({VARIABLES[color]})" if color in VARIABLES else color


def thumbnail(image: np.ndarray, largest: int = 160) -> str:
    """An image as a data URI: PNG, or JPEG if its longer side has more than `PIXELATED` pixels.

    Args:
        image: `(H, W)`, `(H, W, 1)` or `(H, W, 3)` uint8.
        largest: pixels of the longer side, 160 by default; larger images are reduced.

    Raises:
        ValueError: if the image has another shape or type.

    >>> thumbnail(np.zeros((2, 2, 1), "uint8"))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[-1] in (1, 3)):
        raise ValueError(
            f"An image must be uint8 of shape (H, W), (H, W, 1) or (H, W, 3), but received {image.dtype} of shape"
            f" {image.shape}."
        )
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)
    picture.thumbnail((largest, largest))
    buffer = io.BytesIO()
    form = "PNG" if max(image.shape[:2]) <= PIXELATED else "JPEG"
    picture.save(buffer, format=form, optimize=True, quality=88)
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A gray image under a map in color (viridis: dark is 0, yellow is 1).

    Args:
        image: `(H, W)`, `(H, W, 1)` or `(H, W, 3)` uint8.
        heat: `(H, W)` floats from 0 to 1.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ValueError: if the map has another size.

    >>> overlay(np.zeros((2, 3, 3), "uint8"), np.ones((2, 3))).shape
    (2, 3, 3)
    """
    from matplotlib import colormaps

    image, heat = np.asarray(image), np.asarray(heat, "float64")
    if heat.shape != image.shape[:2]:
        raise ValueError(f"A map must have the size {image.shape[:2]} of its image, but received {heat.shape}.")
    gray = image.reshape(*heat.shape, -1).mean(-1, keepdims=True)
    color = 255 * colormaps["viridis"](np.clip(np.nan_to_num(heat), 0, 1))[..., :3]
    strength = 0.35 + 0.35 * np.clip(np.nan_to_num(heat), 0, 1)[..., None]
    return ((1 - strength) * gray + strength * color).round().astype("uint8")
