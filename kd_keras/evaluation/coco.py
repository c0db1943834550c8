"""Labels and detections as pycocotools has them, and its comparison of the two."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_keras.detection.boxes import NO_OBJECT, convert_boxes
from kd_keras.detection.decoding import Detections
from kd_keras.errors import explain_mismatch


def compare_boxes(
    labels: Mapping[str, Any], detections: Detections, size: tuple[int, int], classes: int, by_size: bool = True
) -> Any:
    """Matches the detections of each image and class with the objects, as COCO does.

    Args:
        labels, detections, size, classes: as `average_precision` takes them.
        by_size: whether objects are also compared by size, which takes four times as long.

    Returns:
        A `COCOeval` after `evaluate()`, whose `accumulate()` and `summarize()` print, or `None` if there are no
        objects. The `id` of an annotation is its number among the rows with an object, image by image, counted from 1.

    Raises:
        ImportError: if pycocotools is not installed.
        ValueError: if the numbers of images differ, or a class is outside 0..K-1.
    """
    coco, coco_eval = _pycocotools()
    numbers, detected = np.asarray(labels["classes"]), np.asarray(detections.classes)
    if len(numbers) != len(detected):
        raise ValueError(explain_mismatch(f"detections in {len(numbers)} images", f"those of {len(detected)}"))
    for kind, values in (("labels", numbers), ("detections", detected)):
        if values.size and not NO_OBJECT <= values.min() <= values.max() < classes:
            expected = f"{kind} with classes from 0 to {classes - 1}, or -1 for no object"
            raise ValueError(explain_mismatch(expected, f"{values.min()} to {values.max()}"))
    boxes = np.asarray(convert_boxes(labels["boxes"], "rel_yxyx", "xywh", size), "float64")
    truth = _index(coco, len(numbers), classes, _rows(boxes, numbers))
    if not truth.anns:
        return None
    boxes = np.asarray(convert_boxes(detections.boxes, "xyxy", "xywh"), "float64")
    results = _index(coco, len(numbers), classes, _rows(boxes, detected, np.asarray(detections.scores)))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_eval(truth, results, "bbox")
        if not by_size:
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
    return evaluation


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            'Average precision needs pycocotools, which is not installed. Run: pip install "kd_keras[detection]"'
        ) from error
    return COCO, COCOeval


def _rows(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Annotations as COCO has them; numbers of annotations begin at 1, because 0 means unmatched there."""
    rows: list[dict[str, Any]] = []
    for image, row in zip(*np.nonzero(classes != NO_OBJECT), strict=True):
        x, y, width, height = boxes[image, row].tolist()
        score = {} if scores is None else {"score": float(scores[image, row])}
        rows.append(
            {
                "id": len(rows) + 1,
                "image_id": int(image),
                "category_id": int(classes[image, row]),
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                **score,
            }
        )
    return rows


def _index(coco: Any, images: int, classes: int, annotations: Sequence[dict[str, Any]]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        index = coco()
        index.dataset = {
            "images": [{"id": number} for number in range(images)],
            "categories": [{"id": number} for number in range(classes)],
            "annotations": list(annotations),
        }
        index.createIndex()
    return index
