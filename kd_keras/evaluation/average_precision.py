"""How well does a detector find objects? Average precision and recall as COCO defines them, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd_keras.detection.decoding import Detections
from kd_keras.evaluation.coco import compare_boxes

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
    * `ap_by_class`, `ap50_by_class` and `ar100_by_class`, `(K,)` float64, NaN for a class without objects;
    * `precision_by_recall` `(101, K)` float64, the precision of each class at the IoU threshold 0.5 for a recall of 0,
      0.01, ..., 1; it is the largest at any such or larger recall, and 0 if the recall is not reached; NaN as above;
    * `objects_by_class` `(K,)` and `objects_by_size` `(3,)` int64, the numbers of objects, the latter of small, medium
      and large ones.

    Labels contain no crowds and no mark of difficult objects: detections in a crowd count as errors, difficult objects
    as any other, and the size of an object is the area of its box. On data with these, COCO's and VOC's own programs
    give other values.

    A metric without objects, such as that of large objects if there are none, is left out. All of them are left out
    if there are no objects at all.

    Args:
        labels: "boxes" `(n, M, 4)` in the format "rel_yxyx" and "classes" `(n, M)`, -1 for rows without an object, of n
            images.
        detections: of the same images, in pixels. At most 100 of each class in an image count.
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
    evaluation = compare_boxes(labels, detections, size, classes)
    if evaluation is None:
        return
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table
        evaluation.accumulate()
        evaluation.summarize()
    yield from ((name, float(value)) for name, value in zip(NAMES, evaluation.stats, strict=True) if value >= 0)
    # (thresholds, recalls, classes, sizes, numbers of detections); -1 without objects
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_class = {
        "ap_by_class": precision.mean((0, 1)),
        "ap50_by_class": precision[0].mean(0),
        "ar100_by_class": evaluation.eval["recall"][:, :, 0, -1].mean(0),
        "precision_by_recall": precision[0],
    }
    yield from ((name, np.where(values < 0, np.nan, values)) for name, values in by_class.items())
    objects = evaluation.cocoGt.anns.values()
    yield "objects_by_class", np.bincount([row["category_id"] for row in objects], minlength=classes)
    areas = np.array([row["area"] for row in objects])
    # Both ends of a range belong to it, so that an object on a border is in two of them.
    ranges = evaluation.params.areaRng[1:]
    yield "objects_by_size", np.array([((areas >= low) & (areas <= high)).sum() for low, high in ranges])
