"""Reads boxes in COCO's JSON format: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from kd_keras.data.annotations import AnnotatedImage, Object
from kd_keras.errors import explain_mismatch, shorten

logger = logging.getLogger("kd_keras")


def read_coco(file: str | os.PathLike, images: str | os.PathLike) -> tuple[list[AnnotatedImage], tuple[str, ...]]:
    """Reads a COCO file; its boxes are "xywh".

    Classes are numbered in the order of their ids in the file. Crowds (`iscrowd`), which are not single objects, and
    boxes whose width or height is 0 are left out; the log says how many. What is detected in a crowd then counts as an
    error, of which a warning is logged, while COCO's own evaluation ignores it.

    Args:
        file: the JSON file.
        images: the folder that the file names of the images are relative to.

    Returns:
        The images in the order of the file, and the names of the classes.

    Raises:
        ValueError: if the file is not of this format, two images or classes have one id, or an annotation has an
            unknown image or class or a negative width or height; the message names the annotation.
    """
    file, images = Path(file), Path(images)
    content = _load(file)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    known = {image["id"] for image in content["images"]}
    objects, crowds, empty = defaultdict(list), 0, 0
    for annotation in content["annotations"]:
        place = f"{file}, annotation {annotation.get('id')}"
        if annotation.get("image_id") not in known:
            raise ValueError(explain_mismatch(f"an image of the file at {place}", f"{annotation.get('image_id')!r}"))
        if annotation.get("category_id") not in numbers:
            expected = f"a category_id of {sorted(numbers)} at {place}"
            raise ValueError(explain_mismatch(expected, repr(annotation.get("category_id"))))
        box = _box(annotation, place)
        if annotation.get("iscrowd"):
            crowds += 1
        elif min(box[2:]) == 0:
            empty += 1
        else:
            objects[annotation["image_id"]].append(Object(box, numbers[annotation["category_id"]], place))
    if empty:
        logger.info("%s: %d boxes without an area are left out.", file, empty)
    if crowds:
        logger.warning("%s: %d crowds are left out; what is detected in them counts as an error.", file, crowds)
    annotated = [
        AnnotatedImage(
            images / image["file_name"],
            tuple(objects[image["id"]]),
            f"{file}, image {image['id']}",
            (image["height"], image["width"]) if "height" in image and "width" in image else None,
        )
        for image in content["images"]
    ]
    return annotated, tuple(category["name"] for category in categories)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(explain_mismatch(f"a JSON file at {file}", f"a text that is not JSON ({error})")) from error
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        received = (
            f"the keys {shorten(sorted(content))}" if isinstance(content, dict) else f"a {type(content).__name__}"
        )
        raise ValueError(explain_mismatch(f"a COCO file with lists of {', '.join(keys)} at {file}", received))
    _check_ids(content["images"], "file_name", f"images of {file}")
    _check_ids(content["categories"], "name", f"categories of {file}")
    return content


def _check_ids(entries: list[Any], name: str, place: str) -> None:
    """Checks that each entry of a list has a name, and an id of its own."""
    ids = set()
    for entry in entries:
        if not isinstance(entry, dict) or not {"id", name} <= entry.keys():
            raise ValueError(explain_mismatch(f"an id and a {name} of each of the {place}", shorten(entry)))
        if entry["id"] in ids:
            raise ValueError(explain_mismatch(f"different ids of the {place}", f"the id {entry['id']} twice"))
        ids.add(entry["id"])


def _box(annotation: dict[str, Any], place: str) -> tuple[float, ...]:
    box = annotation.get("bbox")
    numbers = [value if isinstance(value, (int, float)) else math.nan for value in box] if type(box) is list else []
    if len(numbers) != 4 or not all(side >= 0 for side in numbers[2:]):
        expected = f"a bbox of x, y, and a width and a height of at least 0 at {place}"
        raise ValueError(explain_mismatch(expected, shorten(box), "correct the annotation, or remove it"))
    return tuple(map(float, numbers))
