"""Reads boxes in Pascal VOC's XML format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

from kd_keras.data.annotations import AnnotatedImage, Object, find_class
from kd_keras.errors import explain_mismatch, suggest

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Element(NamedTuple):
    path: str  # the names of the element and those around it, such as "annotation/object/name"
    text: str
    line: int


def read_voc(
    folder: str | os.PathLike, split: str, class_names: tuple[str, ...] | None = None
) -> tuple[list[AnnotatedImage], tuple[str, ...]]:
    """Reads a folder of VOC annotations; its boxes are "xyxy".

    There are two layouts: `FOLDER/Annotations/*.xml` with `FOLDER/JPEGImages` and the splits in
    `FOLDER/ImageSets/Main/<split>.txt`, or all files in FOLDER, with one split, "train" or "all". Corners are read as
    they are written, without the half of a pixel by which VOC's own files are shifted.

    Args:
        folder: the folder.
        split: the split, or "all".
        class_names: the names in the order of their numbers; by default all names in the annotations, sorted.

    Returns:
        The images in the order of the split's file, or of their names; and the names of the classes.

    Raises:
        ValueError: if the split or a class is unknown, or an annotation is not of this format; the message names the
            file and the line.
        FileNotFoundError: if a split names an annotation that is missing.
    """
    folder = Path(folder)
    nested = (folder / "Annotations").is_dir()
    annotations = folder / "Annotations" if nested else folder
    images = folder / "JPEGImages" if nested else folder
    files = _select(folder, annotations, split)
    contents = {file: _parse(file) for file in sorted({*files, *annotations.glob("*.xml")})}
    if class_names is None:
        elements = [element for content in contents.values() for element in content]
        class_names = tuple(sorted({item.text for item in elements if item.path == "annotation/object/name"}))
    return [_annotated(file, contents[file], images, class_names) for file in files], class_names


def _select(folder: Path, annotations: Path, split: str) -> list[Path]:
    """The annotation files of a split."""
    lists = {file.stem: file for file in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}
    if split == "all" or (split == "train" and not lists):
        return sorted(annotations.glob("*.xml"))
    if split not in lists:
        choices = [*lists, "all"] if lists else ["train", "all"]
        raise ValueError(explain_mismatch(f"a split of {folder}", repr(split), suggest(split, choices)))
    files = []
    for number, line in enumerate(lists[split].read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        file = annotations / f"{line.split()[0]}.xml"
        if not file.is_file():
            raise FileNotFoundError(
                f"Expected the file {file}, which {lists[split]}:{number} names, but it is missing."
            )
        files.append(file)
    return files


def _parse(file: Path) -> list[_Element]:
    """The elements of an XML file in the order of their ends, with the lines of their starts."""
    elements: list[_Element] = []
    trail: list[tuple[str, int, list[str]]] = []
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, Any]) -> None:
        trail.append((tag, parser.CurrentLineNumber, []))

    def end(tag: str) -> None:
        path = "/".join(name for name, _, _ in trail)
        _, line, texts = trail.pop()
        elements.append(_Element(path, "".join(texts).strip(), line))

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = lambda text: trail[-1][2].append(text)
    try:
        parser.Parse(file.read_bytes(), True)
    except expat.ExpatError as error:
        received = f"text that is not XML ({error})"
        raise ValueError(explain_mismatch(f"XML at {file}:{error.lineno}", received)) from error
    return elements


def _annotated(file: Path, content: list[_Element], images: Path, class_names: tuple[str, ...]) -> AnnotatedImage:
    top = {item.path: item for item in content if item.path.count("/") <= 2 and "/object" not in item.path}
    if "annotation/filename" not in top or not top["annotation/filename"].text:
        raise ValueError(explain_mismatch(f"an annotation with a filename at {file}", "none"))
    filename = top["annotation/filename"]
    objects: list[Object] = []
    parts: dict[str, _Element] = {}
    for item in content:
        if item.path == "annotation/object":
            objects.append(_object(file, item.line, parts, class_names))
            parts = {}
        elif item.path.startswith("annotation/object/"):
            # The parts of a person have boxes of their own, one level deeper.
            parts[item.path.removeprefix("annotation/object/")] = item
    sides = [top.get(f"annotation/size/{side}") for side in ("height", "width")]
    lengths = [_number(file, side) for side in sides if side is not None]
    size = (int(lengths[0]), int(lengths[1])) if len(lengths) == 2 and min(lengths) > 0 else None
    return AnnotatedImage(images / filename.text, tuple(objects), f"{file}:{filename.line}", size)


def _object(file: Path, line: int, parts: dict[str, _Element], class_names: tuple[str, ...]) -> Object:
    missing = [key for key in ("name", *(f"bndbox/{corner}" for corner in CORNERS)) if key not in parts]
    if missing:
        raise ValueError(explain_mismatch(f"an object with {', '.join(missing)} at {file}:{line}", "one without"))
    number = find_class(parts["name"].text, class_names, f"{file}:{parts['name'].line}")
    box = tuple(_number(file, parts[f"bndbox/{corner}"]) for corner in CORNERS)
    return Object(box, number, f"{file}:{line}")


def _number(file: Path, item: _Element) -> float:
    try:
        return float(item.text)
    except ValueError as error:
        raise ValueError(explain_mismatch(f"a number as {item.path} at {file}:{item.line}", repr(item.text))) from error
