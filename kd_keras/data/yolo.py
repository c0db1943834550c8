"""Reads boxes in YOLO's text format: a file for each image, a line `class x y width height` for each object."""

from __future__ import annotations

import os
from pathlib import Path

from kd_keras.data.annotations import AnnotatedImage, Object, image_files, read_lines
from kd_keras.errors import explain_mismatch, suggest

NAME_FILES = ("classes.txt", "obj.names")


def read_yolo(
    folder: str | os.PathLike, split: str, class_names: tuple[str, ...] | None = None
) -> tuple[list[AnnotatedImage], tuple[str, ...]]:
    """Reads a folder of YOLO labels; its boxes are "rel_center_xywh".

    There are four layouts: `FOLDER/images/<split>` with `FOLDER/labels/<split>`, `FOLDER/<split>/images` with
    `FOLDER/<split>/labels`, and with a single split, "train" or "all", `FOLDER/images` with `FOLDER/labels` or all
    files in FOLDER. An image without a label file, or with an empty one, has no objects.

    Args:
        folder: the folder.
        split: the split; "all" only for a layout with a single one.
        class_names: the names in the order of their numbers; by default the lines of `classes.txt` or `obj.names` in
            FOLDER or beside the labels.

    Returns:
        The images in the order of their names, and the names of the classes.

    Raises:
        ValueError: if the split or a class is unknown, there are no names of classes, a file lists the names in another
            order, or a line is not of this format; the message names the file and the line.
        FileNotFoundError: if a label file has no image.
    """
    folder = Path(folder)
    images, labels = _find_folders(folder, split)
    names = _find_names((folder, labels), class_names)
    files = image_files(images)
    stems = {file.stem for file in files}
    if len(stems) < len(files):
        repeated = sorted({file.stem for file in files if sum(file.stem == other.stem for other in files) > 1})
        raise ValueError(explain_mismatch(f"one image for each label file in {images}", f"several called {repeated}"))
    for label in sorted(path for path in labels.iterdir() if path.suffix.lower() == ".txt"):
        if label.suffix != ".txt":
            raise ValueError(explain_mismatch(f"a label file that ends in .txt in {labels}", label.name, "rename it"))
        if label.name not in NAME_FILES and label.stem not in stems:
            raise FileNotFoundError(f"Expected an image for {label} in {images}, but it is missing.")
    annotated = []
    for file in files:
        label = labels / f"{file.stem}.txt"
        objects = _read_objects(label, len(names)) if label.is_file() else ()
        annotated.append(AnnotatedImage(file, objects, str(label)))
    return annotated, names


def _find_folders(folder: Path, split: str) -> tuple[Path, Path]:
    """The folder of the images of a split, and that of its labels."""
    pairs = [
        (folder / "images" / split, folder / "labels" / split),
        (folder / split / "images", folder / split / "labels"),
    ]
    if split in ("train", "all"):
        if (folder / "labels").is_dir() and not any(path.is_dir() for path in (folder / "labels").iterdir()):
            pairs.append((folder / "images", folder / "labels"))
        elif any(folder.glob("*.txt")):
            pairs.append((folder, folder))
    for images, labels in pairs:
        if images.is_dir() and labels.is_dir():
            return images, labels
    splits = {path.parent.name for path in folder.glob("*/labels")}
    splits |= {path.name for path in folder.glob("labels/*") if path.is_dir()}
    raise ValueError(explain_mismatch(f"a split of {folder}", repr(split), suggest(split, sorted(splits) or ["all"])))


def _find_names(folders: tuple[Path, ...], class_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names of the classes; each file of names must give the same numbers to the same names."""
    files = [folder / name for folder in dict.fromkeys(folders) for name in NAME_FILES]
    listed = {file: [line.strip() for line in read_lines(file) if line.strip()] for file in files if file.is_file()}
    names = class_names or tuple(next(iter(listed.values()), ()))
    if not names:
        expected = f"the names of the classes in {folders[0]} ({' or '.join(NAME_FILES)}, one on each line)"
        raise ValueError(explain_mismatch(expected, "no such file", 'pass class_names=("first", "second", ...)'))
    for file, lines in listed.items():
        if any(name in names and names.index(name) != number for number, name in enumerate(lines)):
            advice = "number the classes of all labels alike"
            raise ValueError(explain_mismatch(f"the classes {names} in this order in {file}", f"{lines}", advice))
    return names


def _read_objects(file: Path, classes: int) -> tuple[Object, ...]:
    objects = []
    for number, line in enumerate(read_lines(file), start=1):
        place, words = f"{file}:{number}", line.split()
        if not words:
            continue
        try:
            box = tuple(float(word) for word in words[1:])
        except ValueError:
            box = ()
        if len(box) != 4 or not words[0].isdecimal():
            expected = f"a class and four numbers (x, y, width, height) at {place}"
            raise ValueError(explain_mismatch(expected, repr(line), "polygons and key points are not read"))
        if int(words[0]) >= classes:
            expected = f"a class from 0 to {classes - 1} at {place}"
            raise ValueError(explain_mismatch(expected, words[0], "correct the label, or add the class to class_names"))
        objects.append(Object(box, int(words[0]), place))
    return tuple(objects)
