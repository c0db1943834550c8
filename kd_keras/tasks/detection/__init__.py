"""Object detection: each image has boxes with classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from kd_keras import data
from kd_keras.data import Source
from kd_keras.errors import explain_mismatch
from kd_keras.models import Detector
from kd_keras.tasks.base import Task
from kd_keras.tasks.checks import check_image_shape, load_unlabeled, refuse_ignored
from kd_keras.tasks.detection.evaluator import DetectionEvaluator, describe
from kd_keras.tasks.detection.export import export_detector
from kd_keras.tasks.detection.export_check import BOX_TOLERANCES, BoxExport, BoxTolerance
from kd_keras.tasks.detection.monitoring import precision_function
from kd_keras.tasks.monitoring import MeasureStudent, batch_arrays
from kd_keras.tasks.protocols import FORMATS
from kd_keras.teacher import Teacher


class Detection(Task):
    """Boxes with classes, the detector's own loss, average precision as COCO defines it.

    >>> Detection().metric
    'ap'
    """

    name, label_kind, label_text = "detection", "boxes", "boxes with classes"
    metrics = ("ap", "ap50", "ap75")
    class_tap = "class_logits"
    columns = ("parameters", "macs", "ap", "ap50", "ap75", "agreement", "kilobytes", "milliseconds")
    optional_columns = ("ap_small", "ap_medium", "ap_large", "ece")
    export_outputs = ("boxes", "scores")
    export_columns: ClassVar = {"matched": ".4f", "score_difference": ".1e", "box_difference": ".2g", "ap": ".4f"}
    export_tolerances = BoxTolerance._fields

    def load(
        self,
        name: str | os.PathLike,
        split: str,
        data_dir: str | os.PathLike | None,
        *,
        class_names: Sequence[str] | None,
        image_bits: int | None,
        ignored: Sequence[int] | None,
        **options: Any,
    ) -> Source:
        refuse_ignored(self, ignored)
        unlabeled = load_unlabeled(self, name, split, data_dir, image_bits, **options)
        if unlabeled is not None:
            return unlabeled
        names = class_names if os.path.isdir(name) else None
        return data.load_boxes(name, split, data_dir, class_names=names, **options)

    def check_network(
        self, network: keras.Model, name: str, image_shape: tuple[int, int, int], classes: int, is_given: bool
    ) -> None:
        if not isinstance(network, Detector):
            advice = f"write detector/{name}" if not is_given else "build one with models.build('detector/...')"
            received = f"{name}, which is another kind of network"
            raise ValueError(explain_mismatch("a detector for images whose labels are boxes", received, advice))
        if network.classes != classes:
            received = f"{name}, which has {network.classes}"
            raise ValueError(explain_mismatch(f"a detector of {classes} classes", received))
        check_image_shape(network, name, image_shape)

    def compile_options(self, has_soft_labels: bool, label_smoothing: float) -> dict[str, Any]:
        if label_smoothing:  # mixup is allowed: it joins boxes without making their classes soft
            received = f"label_smoothing={label_smoothing}"
            raise ValueError(explain_mismatch("boxes with one class each", received, "leave it out"))
        return {}

    def callbacks(
        self, test: Source, batches: Callable[[], tf.data.Dataset], epochs: Collection[int]
    ) -> list[keras.callbacks.Callback]:
        measuring = partial(precision_function, classes=test.classes or 1)
        return [MeasureStudent(batches, measuring, self.metrics, epochs)]

    def measure(self, network: Teacher, test: Source, batches: tf.data.Dataset) -> dict[str, float]:
        detector = network.networks[0]
        if len(network.networks) > 1 or not isinstance(detector, Detector) or detector.classes != test.classes:
            return {}  # such a teacher has features only
        values = precision_function(detector, batches, detector.classes, network.preprocess[0])()
        return {name: values[name] for name in self.metrics}

    def evaluator(
        self, test: Source, questions: Sequence[str], other_images: Source | None, **options: Any
    ) -> DetectionEvaluator:
        return DetectionEvaluator(test, batch_size=options["batch_size"], image_size=options["image_size"])

    def describe(self, name: str, findings: Mapping[str, Any]) -> str:
        return describe(name, findings)

    def export(
        self,
        name: str,
        network: keras.Model,
        path: Path,
        *,
        tolerance: Mapping[str, float],
        **options: Any,
    ) -> BoxExport:
        if not isinstance(network, Detector):
            raise ValueError(explain_mismatch("a detector to export", f"{network.name!r}, which is not a detector"))
        options["tolerance"] = BOX_TOLERANCES[FORMATS[name][1]]._replace(**tolerance)
        return export_detector(network, path, name, **options)

    def score(self, network: keras.Model, images: np.ndarray, labels: Any) -> float | None:
        if labels is None or not isinstance(network, Detector):
            return None
        batches = batch_arrays(images, labels)
        return precision_function(network, batches, network.classes)()["ap"]
