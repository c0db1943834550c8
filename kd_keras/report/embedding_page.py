"""A page about the embeddings of a folder: a map of them, and the nearest neighbors of some images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_keras.data.image_files import read_image
from kd_keras.files import write_text
from kd_keras.report import svg
from kd_keras.report.page import load_template
from kd_keras.report.sections.base import Card, Plot, Section

QUERIES = 24  # images whose neighbors are shown, evenly spread
POINTS = 5000  # on the map, evenly spread


def write_page(
    path: Path,
    files: Sequence[str],
    paths: Sequence[Path],
    plane: np.ndarray,
    neighbors: np.ndarray,
    cosines: np.ndarray,
    *,
    title: str,
    bits: int = 16,
) -> None:
    """Writes the page, as one HTML file without references to others.

    Args:
        path: of the HTML file.
        files: N names of images.
        paths: of their files.
        plane: `(N, 2)` the place of each image on the map.
        neighbors: `(N, k)` positions of the nearest other images.
        cosines: `(N, k)` of their embeddings.
        title: the heading.
        bits: of images with 16 bits per channel, the number of low bits that their values use.
    """
    sections = [("map", "Map", _show_map(files, plane))]
    if neighbors.shape[1]:
        sections.append(("neighbors", "Nearest neighbors", _show_neighbors(files, paths, neighbors, cosines, bits)))
    html = load_template("embedding.html.jinja").render(title=title, data=f"{len(files):,} images.", sections=sections)
    write_text(path, html)


def _show_map(files: Sequence[str], plane: np.ndarray) -> Section:
    """The first two principal components; images of one folder have one color."""
    step = -(-len(files) // POINTS)
    shown = range(0, len(files), step)
    folders = [files[index].rpartition("/")[0] for index in shown]
    names = sorted(set(folders))
    is_colored = 1 < len(names) <= len(svg.SERIES) - 1
    with svg.axes(420, 520) as ax:
        for index, name in enumerate(names if is_colored else [""]):
            chosen = [number for number, folder in zip(shown, folders, strict=True) if not is_colored or folder == name]
            label = (name or "the folder itself") if is_colored else None
            ax.scatter(*plane[chosen].T, s=12, color=svg.SERIES[index + 1], linewidths=0, label=label)
        if is_colored:
            ax.legend(frameon=False)
        ax.set_xlabel("first principal component")
        ax.set_ylabel("second principal component")
        figure = svg.to_svg(ax.figure, "map", "The embeddings in their first two principal components")
    some = "" if step == 1 else f" One of every {step} images is shown."
    colors = " Images of one folder have one color." if is_colored else ""
    return Section(plots=[Plot(figure, f"Each point is an image.{colors}{some}")])


def _show_neighbors(
    files: Sequence[str], paths: Sequence[Path], neighbors: np.ndarray, cosines: np.ndarray, bits: int
) -> Section:
    cards = []
    for index in range(0, len(files), -(-len(files) // QUERIES)):
        near = list(zip(neighbors[index], cosines[index], strict=True))
        pixels = [read_image(paths[other], bits=bits) for other in (index, *neighbors[index])]
        names = [files[index], *(f"{cosine:.3f} {files[other]}" for other, cosine in near)]
        images = [(svg.thumbnail(image), name) for image, name in zip(pixels, names, strict=True)]
        is_pixelated = max(max(image.shape[:2]) for image in pixels) <= svg.PIXELATED
        cards.append(Card(images=images, alt="an image and its nearest neighbors", lines=[], pixelated=is_pixelated))
    intro = "An image and its nearest neighbors. The cosine of the embeddings is below each."
    return Section(intro=intro, cards=cards, large=True)
