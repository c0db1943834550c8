"""Opens a folder of images with boxes as a source, in the format that its content determines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kd_keras.data.annotations import AnnotatedImage, annotated_source
from kd_keras.data.base import Source
from kd_keras.data.coco import read_coco
from kd_keras.data.image_files import SUFFIXES
from kd_keras.data.pascal_voc import read_voc
from kd_keras.data.yolo import read_yolo
from kd_keras.detection.boxes import BoxFormat
from kd_keras.errors import explain_mismatch


def read_box_folder(
    folder: str | os.PathLike,
    split: str,
    class_names: Sequence[str] | None = None,
    max_boxes: int | None = None,
    channels: int | None = None,
) -> Source:
    """Opens a folder of images with boxes as a source.

    * COCO: `FOLDER/annotations/instances_<split>.json` with the images in `FOLDER/<split>`, or
      `FOLDER/<split>/_annotations.coco.json` with the images in the same folder;
    * Pascal VOC: as `pascal_voc.read_voc` describes, if there are XML files;
    * YOLO: as `yolo.read_yolo` describes, otherwise.

    Args:
        folder: the folder.
        split: one of its splits.
        class_names: K names in the order of their numbers; by default those of the folder.
        max_boxes: N, the number of rows of each label; by default the largest number of objects in an image.
        channels: 1 for gray images, 3 for colors; by default 1 if all images are gray, else 3.

    Raises:
        ValueError: if the split is unknown, or an annotation is wrong; the message names the file and the line, for
            COCO the file and the annotation.
        FileNotFoundError: if there is no image, or an annotated image is missing.
    """
    folder, names = Path(folder), None if class_names is None else tuple(class_names)
    images, box_format, names = _read(folder, split, names)
    if not names:
        raise ValueError(explain_mismatch(f"at least one class in {folder}", "no object", "pass class_names=(...)"))
    return annotated_source(images, box_format, names, name=f"{folder} {split}", max_boxes=max_boxes, channels=channels)


def has_boxes(folder: str | os.PathLike) -> bool:
    """Whether a folder has annotations in one of these formats.

    >>> import tempfile
    >>> has_boxes(tempfile.mkdtemp())
    False
    """
    folder = Path(folder)
    coco = ("annotations/instances_*.json", "*/_annotations.coco.json")
    voc = ("Annotations/*.xml", "*.xml")
    labels = ("labels/*.txt", "labels/*/*.txt", "*/labels/*.txt")
    if any(next(folder.glob(pattern), None) for pattern in (*coco, *voc, *labels)):
        return True
    return any(path.with_suffix(suffix).exists() for path in folder.glob("*.txt") for suffix in SUFFIXES)


def _read(
    folder: Path, split: str, names: tuple[str, ...] | None
) -> tuple[list[AnnotatedImage], BoxFormat, tuple[str, ...]]:
    pairs = (
        (folder / "annotations" / f"instances_{split}.json", folder / split),
        (folder / split / "_annotations.coco.json", folder / split),
    )
    for file, directory in pairs:
        if file.is_file():
            images, listed = read_coco(file, directory)
            if names not in (None, listed):
                received = f"class_names={names}"
                raise ValueError(explain_mismatch(f"the categories {listed} of {file}", received, "leave it out"))
            return images, "xywh", listed
    if (folder / "Annotations").is_dir() or any(folder.glob("*.xml")):
        images, listed = read_voc(folder, split, names)
        return images, "xyxy", listed
    if (folder / "annotations").is_dir():
        files = sorted(path.name for path in (folder / "annotations").glob("*.json"))
        raise ValueError(explain_mismatch(f"a split of {folder}", f"{split!r}, but it has {files}"))
    images, listed = read_yolo(folder, split, names)
    return images, "rel_center_xywh", listed
