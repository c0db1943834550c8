"""Semantic segmentation: each pixel has a class."""

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
from kd_keras.segmentation import SegmentationLoss
from kd_keras.tasks.base import Task
from kd_keras.tasks.checks import load_unlabeled, refuse_soft_labels
from kd_keras.tasks.monitoring import MeasureStudent, batch_arrays
from kd_keras.tasks.segmentation.evaluator import SegmentationEvaluator, describe
from kd_keras.tasks.segmentation.export import ClassMapExport, export_class_maps
from kd_keras.tasks.segmentation.monitoring import iou_function
from kd_keras.teacher import Teacher


class Segmentation(Task):
    """Masks, cross-entropy over the valid pixels, mean IoU over the dataset.

    >>> Segmentation().metric
    'miou'
    """

    name, label_kind, label_text = "segmentation", "masks", "masks with a class for each pixel"
    metrics = ("miou", "pixel_accuracy")
    columns = ("parameters", "macs", "miou", "pixel_accuracy", "boundary_f", "agreement", "kilobytes", "milliseconds")
    optional_columns = ("agreement_miou", "ece")
    export_outputs = ("classes",)
    export_columns: ClassVar = {"agreement": ".4f"}
    export_tolerances = ("agreement",)

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
        unlabeled = load_unlabeled(self, name, split, data_dir, image_bits, **options)
        if unlabeled is not None:
            return unlabeled
        is_named = data.names_mask_classes(name, data_dir, options["download_timeout"])
        options |= {"class_names": None if is_named else class_names, "ignored": tuple(ignored or ())}
        source = data.load_masks(name, split, data_dir, **options)
        if class_names is not None and list(class_names) != list(source.class_names or ()):
            expected = f"the classes {list(class_names)} in {source.name!r}"
            raise ValueError(
                explain_mismatch(expected, str(list(source.class_names or ())), "use data of the same classes")
            )
        return source

    def check_network(
        self, network: keras.Model, name: str, image_shape: tuple[int, int, int], classes: int, is_given: bool
    ) -> None:
        shape, expected = getattr(network, "output_shape", None), (None, *image_shape[:2], classes)
        if isinstance(shape, tuple) and len(shape) == 4 and (None, *shape[1:]) == expected:
            return
        advice = "build one with models.build('segmenter/...')" if is_given else f"write segmenter/{name}"
        if isinstance(shape, tuple) and len(shape) == 4:
            advice = "use images of the size and the classes for which it was built"
        received = f"{name} with the output {shape}"
        raise ValueError(
            explain_mismatch(f"a segmentation network with logits {expected}, a class for each pixel", received, advice)
        )

    def compile_options(self, has_soft_labels: bool, label_smoothing: float) -> dict[str, Any]:
        refuse_soft_labels(has_soft_labels, label_smoothing, "masks with one class for each pixel")
        return {"loss": SegmentationLoss()}

    def callbacks(
        self, test: Source, batches: Callable[[], tf.data.Dataset], epochs: Collection[int]
    ) -> list[keras.callbacks.Callback]:
        return [MeasureStudent(batches, partial(iou_function, classes=test.classes or 1), self.metrics, epochs)]

    def measure(self, network: Teacher, test: Source, batches: tf.data.Dataset) -> dict[str, float]:
        shapes = [getattr(model, "output_shape", None) for model in network.networks]
        if any(not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != test.classes for shape in shapes):
            return {}  # such a teacher has features only
        return iou_function(network, batches, test.classes or 1)()

    def evaluator(
        self, test: Source, questions: Sequence[str], other_images: Source | None, **options: Any
    ) -> SegmentationEvaluator:
        return SegmentationEvaluator(test, batch_size=options["batch_size"], image_size=options["image_size"])

    def describe(self, name: str, findings: Mapping[str, Any]) -> str:
        return describe(name, findings)

    def export(
        self,
        name: str,
        network: keras.Model,
        path: Path,
        *,
        sample: np.ndarray,
        labels: Any,
        tolerance: Mapping[str, float],
        **options: Any,
    ) -> ClassMapExport:
        return export_class_maps(network, path, name, sample=sample, agreement=tolerance.get("agreement"), **options)

    def score(self, network: keras.Model, images: np.ndarray, labels: Any) -> float | None:
        if labels is None:
            return None
        batches = batch_arrays(images, labels)
        return iou_function(network, batches, network.output_shape[-1])()["miou"]
