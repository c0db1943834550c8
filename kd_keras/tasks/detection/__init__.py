"""Object detection: each image has boxes with classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
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
from kd_keras.tasks.detection.evaluator import DetectionEvaluator, describe
from kd_keras.tasks.detection.export import litert, onnx, saved_model
from kd_keras.tasks.detection.export_check import BOX_TOLERANCES, BoxExport
from kd_keras.tasks.detection.monitoring import MeasurePrecision, detection_function, measure_precision
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
    export_columns: ClassVar = {"matched": ".4f", "score_difference": ".1e", "box_difference": ".2g", "ap": ".4f"}

    def load(
        self,
        name: str | os.PathLike,
        split: str,
        data_dir: str | os.PathLike | None,
        *,
        class_names: Sequence[str] | None,
        image_channels: int | None,
        image_bits: int | None,
        ignored: Sequence[int] | None,
        download_timeout: float,
    ) -> Source:
        self.refuse_ignored(ignored)
        is_folder = os.path.isdir(name)
        options: dict[str, Any] = {"image_channels": image_channels, "download_timeout": download_timeout}
        if is_folder and data.find_label_kind(name, data_dir, download_timeout) != self.label_kind:
            unlabeled = data.load(name, split, data_dir, image_bits=image_bits, **options)
            self.check_source(unlabeled)
            return unlabeled
        if image_bits is not None:
            raise ValueError(f"Images with boxes must have 8 bits, but received image_bits={image_bits}. Leave it out.")
        return data.load_boxes(name, split, data_dir, class_names=class_names if is_folder else None, **options)

    def check_network(
        self, network: keras.Model, name: str, image_shape: tuple[int, int, int], classes: int, is_given: bool
    ) -> None:
        if not isinstance(network, Detector):
            advice = f"write detector/{name}" if not is_given else "build one with models.build('detector/...')"
            received = f"{name}, which is another kind of network"
            raise ValueError(explain_mismatch("a detector for images whose labels are boxes", received, advice))
        found = network.output["class_logits"].shape[-1]
        if found != classes:
            raise ValueError(explain_mismatch(f"a detector of {classes} classes", f"{name}, which has {found}"))
        if tuple(network.input_shape[1:]) != tuple(image_shape):
            expected = f"images {tuple(network.input_shape[1:])}, for which {name} was built"
            size = ",".join(map(str, network.input_shape[1:3]))
            advice = f"pass image_size=({size}), or --image_size={size} in the shell"
            raise ValueError(explain_mismatch(expected, f"images {tuple(image_shape)}", advice))

    def compile_options(self, has_soft_labels: bool, label_smoothing: float) -> dict[str, Any]:
        if has_soft_labels:
            received = f"label_smoothing={label_smoothing}, or mixup or cutmix"
            raise ValueError(explain_mismatch("boxes with one class each", received, "leave these options out"))
        return {}

    def callbacks(
        self, test: Source, batches: Callable[[], tf.data.Dataset], epochs: Collection[int]
    ) -> list[keras.callbacks.Callback]:
        return [MeasurePrecision(batches, test.classes or 1, self.metrics)]

    def measure(self, network: Teacher, test: Source, batches: tf.data.Dataset) -> dict[str, float]:
        detector = network.networks[0]
        if len(network.networks) > 1 or not isinstance(detector, Detector):
            return {}  # such a teacher has features only
        found = measure_precision(
            detection_function(detector, batches, network.preprocess[0]),
            batches,
            detector.input_shape[1:3],
            test.classes or 1,
        )
        return {name: found[name] for name in self.metrics}

    def evaluator(
        self, test: Source, questions: Sequence[str], other: Source | None, **options: Any
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
        representative: np.ndarray | None,
        tolerance: Mapping[str, float],
        **options: Any,
    ) -> BoxExport:
        precision = FORMATS[name][1]
        options["tolerance"] = BOX_TOLERANCES[precision]._replace(**tolerance)
        if not isinstance(network, Detector):
            raise ValueError(explain_mismatch("a detector to export", f"{network.name!r}, which is none"))
        if name == "saved_model":
            return saved_model(network, path, **options)
        if name == "onnx":
            return onnx(network, path, **options)
        return litert(network, path, precision=precision, representative=representative, **options)

    def score(self, network: keras.Model, images: np.ndarray, labels: Any) -> float | None:
        if labels is None or not isinstance(network, Detector):
            return None
        batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
        batches = batches.map(lambda pixels, label: (tf.cast(pixels, tf.float32), label))
        classes = network.output["class_logits"].shape[-1]
        detect = detection_function(network, batches)
        return measure_precision(detect, batches, network.input_shape[1:3], classes)["ap"]
