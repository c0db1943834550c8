"""Reads boxes in YOLO's text format: a file for each image, a line `class x y width height` for each object."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

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
            FOLDER or in the folder of the labels, or `names` of a YAML file in FOLDER such as `data.yaml`: a list, or
            the names by their numbers. Other entries of that file, such as the paths of the splits, are not read.

    Returns:
        The images in the order of their names, and the names of the classes.

    Raises:
        ValueError: if the split or a class is unknown, there are no names of classes, a file lists the names in another
            order, or a line is not of this format; the message names the file and the line.
        FileNotFoundError: if a label file has no image.
    """
    folder = Path(folder)
    images, labels = _find_folders(folder, split)
    names = _choose_names(folder, _listed_names((folder, labels)), class_names)
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


def _listed_names(folders: tuple[Path, Path]) -> dict[Path, list[str]]:
    """The names of the classes in each file that lists them, in the folder or in that of the labels."""
    files = [folder / name for folder in dict.fromkeys(folders) for name in NAME_FILES]
    listed = {file: [line.strip() for line in read_lines(file) if line.strip()] for file in files if file.is_file()}
    for file in sorted((*folders[0].glob("*.yaml"), *folders[0].glob("*.yml"))):
        names = _names_in_yaml(file)
        if names is not None:
            listed[file] = names
    return listed


def _names_in_yaml(file: Path) -> list[str] | None:
    """`names` of a YAML file, a list or an object of the names by their numbers; `None` without this entry."""
    try:
        # BaseLoader reads every value as a text: "no" is a name, and not False.
        content = yaml.load("\n".join(read_lines(file)), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(explain_mismatch(f"a file in the format of YAML in {file}", str(error))) from error
    if not isinstance(content, dict) or "names" not in content:
        return None
    names = content["names"]
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        expected = f"names in {file}, a list or an object with the numbers 0 to K - 1"
        raise ValueError(explain_mismatch(expected, repr(content["names"])))
    return names


def _choose_names(folder: Path, listed: dict[Path, list[str]], class_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names of the classes; each file of names must give the same numbers to the same names."""
    names = class_names or tuple(next(iter(listed.values()), ()))
    if not names:
        expected = f"the names of the classes in {folder} ({' or '.join(NAME_FILES)}, or names in data.yaml)"
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
