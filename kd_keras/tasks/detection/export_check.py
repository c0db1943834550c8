"""Verifies an exported detector against its Keras source on sample images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kd_keras.detection.boxes import iou
from kd_keras.detection.decoding import Detections
from kd_keras.evaluation.average_precision import average_precision
from kd_keras.evaluation.box_matches import match_detections
from kd_keras.export.paths import replace
from kd_keras.export.runtimes import latency, load_outputs, size_in_bytes
from kd_keras.export.verification import (
    check_images,
    check_tolerance,
    count_parameters,
    explain_runtime_errors,
)
from kd_keras.tasks.detection.predictions import BoxPredictions, predict_boxes
from kd_keras.tasks.detection.served import ServedDetector

BATCH = 32


SAME_BOX = 0.9  # the lowest IoU of two detections of the same box


class BoxTolerance(NamedTuple):
    """How much an exported detector may differ from its source.

    Attributes:
        score: the largest difference of the scores of a pair of detections whose boxes have an IoU of at least 0.9.
        pixels: the largest difference of a coordinate of the boxes of a pair with an IoU of at least 0.5.
        matched: the lowest fraction of the source's detections that the export finds.
        ap_drop: the largest loss of AP; it is checked only if there are labels.
    """

    score: float = 1.0
    pixels: float = math.inf
    matched: float = 0.0
    ap_drop: float = 1.0


# In int8 a wrong detection may take the place of a right one of the same score, so the boxes are judged by the AP.
BOX_TOLERANCES = {
    "float32": BoxTolerance(score=1e-3, pixels=0.1, matched=0.99),
    "float16": BoxTolerance(score=0.03, matched=0.95, ap_drop=0.01),
    "int8": BoxTolerance(matched=0.7, ap_drop=0.05),
}


class BoxExport(NamedTuple):
    """An accepted export of a detector, with what its own runtime measured on the sample.

    Attributes:
        path: of the file or directory.
        format: "saved_model", "litert", "litert_float16", "litert_int8" or "onnx".
        bytes: its size.
        parameters: the number of weights in it, without constants for each anchor.
        matched: the fraction of the source's detections that the export finds: the same class, an IoU of at least 0.5.
        score_difference: the largest difference of the scores of such a pair with an IoU of at least 0.9; 0 if there
            are none.
        box_difference: the largest difference of a coordinate of the boxes of any such pair, in pixels.
        ap: on the sample, or `None` without labels.
        source_ap: that of the Keras model.
        milliseconds: the median time for a single image, with non-maximum suppression if it is inside.
        p95: the 95th percentile of that time.
    """

    path: Path
    format: str
    bytes: int
    parameters: int
    matched: float
    score_difference: float
    box_difference: float
    ap: float | None
    source_ap: float | None
    milliseconds: float
    p95: float


class BoxReference:
    """The detector, what its exports deliver, and the images on which they are compared with it.

    Args:
        served: what is exported.
        sample: `(n, H, W, C)` uint8 images of the size of its input.
        labels: "boxes" and "classes" of these images, as `data.load_boxes` gives them, or `None`.

    Raises:
        ValueError: if these do not match each other.
    """

    def __init__(self, served: ServedDetector, sample: np.ndarray, labels: Mapping[str, np.ndarray] | None):
        self.served, self.network = served, served.network
        self.sample = np.asarray(sample)
        check_images("sample", self.sample, self.network.input_shape[1:])
        if labels is not None and len(labels["classes"]) != len(self.sample):
            raise ValueError(
                f"labels= must be those of the {len(self.sample)} sample images, but received labels of"
                f" {len(labels['classes'])}."
            )
        images = tf.data.Dataset.from_tensor_slices(self.sample.astype("float32")).batch(BATCH)
        predictions = predict_boxes(self.network, images, classes=self.network.classes, **served.options)
        self.source = predictions._replace(labels=labels)

    def accept(self, name: str, staging: Path, path: Path, tolerance: BoxTolerance) -> BoxExport:
        """Compares a written export with the detector and moves it to its path.

        Raises:
            ValueError: if its runtime does not load it, it differs too much, or it contains more than the detector.
        """
        # Constants that have a value for each anchor or candidate are no weights.
        lengths = (len(self.network.anchors), self.served.options.get("candidates", 300))
        parameters = count_parameters(self.network, name, staging, lengths)
        with explain_runtime_errors(name, self.network.name):
            run = load_outputs(staging, self.served.names)
            exported = self.served.detections(run, self.sample)
        matched, score, pixels = compare_detections(self.source, exported)
        ap, source_ap = self._ap(exported), self._ap(self.source.detections)
        drop = 0.0 if ap is None or source_ap is None else source_ap - ap
        measured = BoxTolerance(score, pixels, matched, drop)
        check_tolerance(name, tolerance._asdict(), measured._asdict(), at_least=("matched",))
        times = latency(run, self.sample)
        export = BoxExport(
            path, name, size_in_bytes(staging), parameters, matched, score, pixels, ap, source_ap, *times
        )
        replace(staging, path)
        return export

    def _ap(self, detections: Detections) -> float | None:
        labels = self.source.labels
        if labels is None:
            return None
        metrics = dict(average_precision(labels, detections, self.source.size, self.source.classes))
        return float(metrics["ap"]) if "ap" in metrics else None


def compare_detections(source: BoxPredictions, exported: Detections) -> tuple[float, float, float]:
    """The fraction of the source's detections that the export finds, and the largest differences of score and pixels.

    Two detections are a pair if they have the same class and an IoU of at least 0.5, as `match_detections` finds them;
    their order does not matter, because detections of nearly equal scores may change places. Scores are compared if the
    IoU is at least 0.9, because after rounding the suppression may keep another one of two overlapping boxes.

    >>> boxes = np.array([[[0.0, 0.0, 50.0, 50.0]]])
    >>> detections = Detections(boxes, np.array([[0.9]]), np.array([[0]]), np.array([1]))
    >>> source = BoxPredictions(detections, None, (100, 100), 1)
    >>> compare_detections(source, detections._replace(boxes=boxes + 1.0, scores=np.array([[0.75]])))[::2]
    (1.0, 1.0)
    """
    matches = match_detections(source.as_labels(0.0), exported, source.size, source.classes)
    if not len(matches.object_images):
        return (1.0, 0.0, 0.0) if not len(matches.scores) else (0.0, 0.0, 0.0)
    of_export, of_source = matches.pairs()
    boxes, source_boxes = exported.boxes[of_export], np.asarray(source.detections.boxes)[of_source]
    is_same = np.asarray(iou(boxes, source_boxes)) >= SAME_BOX
    scores = np.abs(exported.scores[of_export] - np.asarray(source.detections.scores)[of_source])
    pixels = np.abs(boxes - source_boxes)
    matched = len(scores) / len(matches.object_images)
    return matched, float(scores[is_same].max(initial=0)), float(pixels.max(initial=0))
