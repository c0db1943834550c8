"""Pictures that stand inside an HTML page: figures that take the page's colours, and images as data URIs.

A figure is drawn with the named inks below; in the SVG they become CSS variables, so that one drawing serves light,
dark and paper. matplotlib and Pillow are imported where they are used: they are needed by no other part.
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

from kd_keras.errors import explain_mismatch

# Colours that no drawing means: each stands for a variable of the style sheet.
INK, SOFT, RULE, PAPER, HEAT = (f"#0a0a{place:02x}" for place in range(5))
SERIES = tuple(f"#0a0b{place:02x}" for place in range(7))
VARIABLES = dict(zip((INK, SOFT, RULE, PAPER, HEAT), ("--ink", "--soft", "--rule", "--paper", "--heat")))
VARIABLES |= {colour: f"--series-{place}" for place, colour in enumerate(SERIES)}
COARSE = 100  # pixels: images of no more are kept whole, and shown with their pixels
HEAT_STRENGTH = 0.75  # the heat's opacity at 1: numbers in the page's ink stay legible on it, in light and in dark

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
    """Empty matplotlib axes in the page's style; sizes in CSS pixels, at which 10.5 is the size of the letters.

    >>> with axes(100) as drawn:
    ...     _ = drawn.plot([0, 1], [1, 0], color=INK)
    >>> "var(--ink)" in svg(drawn.figure, "line", "A falling line")
    True
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        drawn = figure.subplots()
        drawn.set_facecolor("none")
        yield drawn


def svg(figure: Any, name: str, alt: str) -> str:
    """A figure as an `<svg>` element to stand in HTML: no namespace, no metadata and no style of its own.

    Args:
        figure: a matplotlib figure.
        name: unlike that of every other figure on the page; the element's ids begin with it.
        alt: what a reader who does not see the figure is told.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in (f"{SVG}style", f"{SVG}metadata")]:
            parent.remove(child)
    linked = {element.get(LINK, "#")[1:] for element in root.iter()}
    linked |= {element.get("clip-path", "url(#)")[5:-1] for element in root.iter()}
    for element in root.iter():
        _suit_html(element, name, linked)
    box = root.get("viewBox")
    root.attrib.clear()
    root.attrib |= {"class": "plot", "viewBox": box, "role": "img", "aria-label": alt}
    root.set("style", f"--width: {float(box.split()[2]):.0f}px")  # as drawn; the style sheet bounds the enlarging
    return ElementTree.tostring(root, encoding="unicode")


def _suit_html(element: ElementTree.Element, name: str, linked: set[str]) -> None:
    """Takes off the namespace, keeps only ids that something refers to, and puts variables in the colours' place."""
    element.tag = element.tag.removeprefix(SVG)
    if link := element.attrib.pop(LINK, ""):
        element.set("href", f"#{name}-{link[1:]}" if link.startswith("#") else "".join(link.split()))
    if clip := element.get("clip-path"):
        element.set("clip-path", f"url(#{name}-{clip[5:-1]})")
    if (own := element.attrib.pop("id", "")) in linked and own:
        element.set("id", f"{name}-{own}")
    if style := element.get("style"):
        style = re.sub(r"font-family:[^;]*;?\s*|(?<=px) '[^;]*", "", style)  # the page's own letters
        style = style.replace("font: ", "font-size: ")
        element.set("style", re.sub("#[0-9a-f]{6}", lambda hit: _variable(hit[0]), style))


def _variable(colour: str) -> str:
    return f"var({VARIABLES[colour]})" if colour in VARIABLES else colour


def thumbnail(image: np.ndarray, largest: int = 160) -> str:
    """An image as a data URI: PNG, or where its longer side has more than `COARSE` pixels JPEG, which is smaller.

    Args:
        image: `(H, W)`, `(H, W, 1)` or `(H, W, 3)` uint8.
        largest: pixels of the longer side; an image of more is made smaller.

    Raises:
        ValueError: where the image is anything else.

    >>> thumbnail(np.zeros((2, 2, 1), "uint8"))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[-1] in (1, 3)):
        raise ValueError(explain_mismatch("an image (H, W), (H, W, 1) or (H, W, 3) uint8", f"{image.shape} {image.dtype}"))
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)
    picture.thumbnail((largest, largest))
    buffer = io.BytesIO()
    form = "PNG" if max(image.shape[:2]) <= COARSE else "JPEG"
    picture.save(buffer, format=form, optimize=True, quality=88)
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def overlay(image: np.ndarray, map: np.ndarray) -> np.ndarray:
    """An image in grey under a map in colour (viridis: dark is 0, yellow is 1).

    Args:
        image: `(H, W)`, `(H, W, 1)` or `(H, W, 3)` uint8.
        map: `(H, W)` floats from 0 to 1.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ValueError: where the map has another size.

    >>> overlay(np.zeros((2, 3, 3), "uint8"), np.ones((2, 3))).shape
    (2, 3, 3)
    """
    from matplotlib import colormaps

    image, map = np.asarray(image), np.asarray(map, "float64")
    if map.shape != image.shape[:2]:
        raise ValueError(explain_mismatch(f"a map of the image's size {image.shape[:2]}", str(map.shape)))
    grey = image.reshape(*map.shape, -1).mean(-1, keepdims=True)
    colour = 255 * colormaps["viridis"](np.clip(np.nan_to_num(map), 0, 1))[..., :3]
    strength = 0.35 + 0.35 * np.clip(np.nan_to_num(map), 0, 1)[..., None]
    return ((1 - strength) * grey + strength * colour).round().astype("uint8")
