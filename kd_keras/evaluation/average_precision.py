"""How well does a detector find objects? Average precision and recall as COCO defines them, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kd_keras.detection.boxes import NO_OBJECT, convert_boxes
from kd_keras.detection.decoding import Detections
from kd_keras.errors import explain_mismatch

# The rows of COCOeval.stats; sizes are the areas below 32^2, up to 96^2, and above, in pixels.
NAMES = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def average_precision(
    labels: Mapping[str, Any], detections: Detections, size: tuple[int, int], classes: int
) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields the metrics of COCO, in [0, 1] (https://cocodataset.org/#detection-eval).

    * `ap`: the mean over the IoU thresholds 0.5, 0.55, ..., 0.95 and over the classes; `ap50` and `ap75` at a single
      threshold; `ap_small`, `ap_medium` and `ap_large` for objects of some sizes only;
    * `ar1`, `ar10`, `ar100`: the recall with at most so many detections in an image; `ar_small`, ... as above;
    * `ap_by_class` `(K,)` float64, NaN for a class without objects.

    A metric without objects, such as that of large objects if there are none, is left out.

    Args:
        labels: "boxes" `(n, M, 4)` in the format "rel_yxyx" and "classes" `(n, M)`, -1 for rows without an object, of n
            images.
        detections: of the same images, in pixels. At most 100 in an image count.
        size: `(H, W)` of the images whose pixels the detections and the sizes of objects are in.
        classes: K.

    Raises:
        ImportError: if pycocotools is not installed.
        ValueError: if the numbers of images differ, or a class is outside 0..K-1.

    >>> labels = {"boxes": np.array([[[0.0, 0.0, 0.5, 0.5]]]), "classes": np.array([[1]])}
    >>> found = Detections(np.array([[[0.0, 0.0, 50.0, 50.0]]]), np.array([[0.9]]), np.array([[1]]), np.array([1]))
    >>> metrics = dict(average_precision(labels, found, (100, 100), 3))
    >>> round(metrics["ap"], 6), metrics["ap_by_class"].round(6).tolist()
    (1.0, [nan, 1.0, nan])
    """
    coco, coco_eval = _pycocotools()
    numbers, found = np.asarray(labels["classes"]), np.asarray(detections.classes)
    if len(numbers) != len(found):
        raise ValueError(explain_mismatch(f"detections in {len(numbers)} images", f"those of {len(found)}"))
    for kind, values in (("labels", numbers), ("detections", found)):
        if values.size and not NO_OBJECT <= values.min() <= values.max() < classes:
            expected = f"{kind} with classes from 0 to {classes - 1}, or -1 for no object"
            raise ValueError(explain_mismatch(expected, f"{values.min()} to {values.max()}"))
    boxes = np.asarray(convert_boxes(labels["boxes"], "rel_yxyx", "xywh", size), "float64")
    truth = _index(coco, len(numbers), classes, _rows(boxes, numbers))
    if not truth.anns:
        return
    boxes = np.asarray(convert_boxes(detections.boxes, "xyxy", "xywh"), "float64")
    results = _index(coco, len(numbers), classes, _rows(boxes, found, np.asarray(detections.scores)))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table
        evaluation = coco_eval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    yield from ((name, float(value)) for name, value in zip(NAMES, evaluation.stats, strict=True) if value >= 0)
    # (thresholds, recalls, classes, sizes, numbers of detections); -1 without objects
    precision = evaluation.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    yield "ap_by_class", np.where(precision < 0, np.nan, precision)


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
    with contextlib.redirect_stdout(io.StringIO()):
        index = coco()
        index.dataset = {
            "images": [{"id": number} for number in range(images)],
            "categories": [{"id": number} for number in range(classes)],
            "annotations": list(annotations),
        }
        index.createIndex()
    return index
