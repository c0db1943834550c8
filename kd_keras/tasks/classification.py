"""Classification: each image has one class."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from kd_keras import data
from kd_keras.data import Pairs, Source
from kd_keras.evaluation import Evaluator, Requirement, accuracy, predict, select_questions
from kd_keras.evaluation.images import order_classes
from kd_keras.evaluation.text import COLUMNS, OPTIONAL_COLUMNS, describe
from kd_keras.export import TOLERANCES, Export, Tolerance, classes_of, litert, onnx, saved_model
from kd_keras.networks.quantized_layers import is_quantization_aware
from kd_keras.report.assembly import write_report
from kd_keras.report.page import Subject
from kd_keras.tasks.base import Task
from kd_keras.tasks.checks import refuse_ignored
from kd_keras.tasks.protocols import FORMATS
from kd_keras.teacher import Teacher


class ClassEvaluator(Evaluator):
    """The evaluator of classifiers, with what it writes.

    >>> evaluator = ClassEvaluator(data.load("digits", "test"), batch_size=100)
    >>> evaluator.describe_data().splitlines()[0]
    '797 test images of digits. Agreement and kl (nats) compare with the teacher.'
    """

    def describe_data(self) -> str:
        text = f"{self.test.size:,} test images of {self.test.name}. Agreement and kl (nats) compare with"
        text += f" {self.teacher or 'the teacher'}.\nCalibration is measured on every second image; the others fit the"
        text += " temperature."
        sampled = [question for question in self.questions if question not in ("generalization", "memory", "int8")]
        if sampled:
            text += f"\nUp to {self.examples:,} evenly spread images are used for {', '.join(sampled)}."
        return text

    def write_report(
        self, path: str | os.PathLike, subjects: Sequence[Subject], requirements: Sequence[Requirement], command: str
    ) -> None:
        write_report(path, self, subjects, requirements, command=command)


class Classification(Task):
    """One class for each image, cross-entropy, accuracy.

    >>> Classification().metric
    'accuracy'
    """

    name, label_kind, label_text = "classification", "class", "one class for each image"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    exports_learned_ranges = True
    columns, optional_columns = COLUMNS, OPTIONAL_COLUMNS
    export_outputs = ("probabilities",)
    export_columns: ClassVar = {"difference": ".1e", "agreement": ".4f", "accuracy": ".4f"}
    export_tolerances = Tolerance._fields

    def load(
        self,
        name: str | os.PathLike,
        split: str,
        data_dir: str | os.PathLike | None,
        *,
        class_names: Sequence[str] | None,
        ignored: Sequence[int] | None,
        **options: Any,
    ) -> Source:
        refuse_ignored(self, ignored)
        return data.load(name, split, data_dir, **options)  # which finds the classes of all splits

    def check_network(
        self, network: keras.Model, name: str, image_shape: tuple[int, int, int], classes: int, is_given: bool
    ) -> None:
        outputs = getattr(network, "output_names", ())
        if len(outputs) > 1 and type(network).compute_loss is not keras.Model.compute_loss:
            raise ValueError(
                f"Expected a classifier, because each image has one class, but {name} has the outputs "
                f"{', '.join(outputs)} and a loss of its own. Pass images with labels of that kind, task= if it is for "
                "another task, or a classifier."
            )
        shape = getattr(network, "output_shape", None)
        if is_given and isinstance(shape, tuple) and shape[-1] != classes:
            raise ValueError(
                f"The network must have an output for each of the {classes} classes of the images, but {name} has "
                f"{shape[-1]} outputs. Change its last layer."
            )

    def compile_options(self, has_soft_labels: bool, label_smoothing: float) -> dict[str, Any]:
        loss: keras.losses.Loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if has_soft_labels:
            loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
        # Weighted, because the copies that fill up a last batch have weight 0.
        return {"loss": loss, "weighted_metrics": ["accuracy"]}

    def callbacks(
        self, test: Source, batches: Callable[[], tf.data.Dataset], epochs: Collection[int]
    ) -> list[keras.callbacks.Callback]:
        return []

    def measure(self, network: Teacher, test: Source, batches: tf.data.Dataset) -> dict[str, float]:
        return {"accuracy": float(dict(accuracy(predict(network, batches)))["accuracy"])}

    def select_questions(self, names: Iterable[str], requirements: Iterable[str], with_other: bool) -> tuple[str, ...]:
        return select_questions(names, requirements, with_other)

    def evaluator(
        self,
        test: Source,
        questions: Sequence[str],
        other_images: Source | None,
        *,
        pairs: Pairs | None,
        **options: Any,
    ) -> ClassEvaluator:
        return ClassEvaluator(test, questions, other=other_images, **options)

    def describe(self, name: str, findings: Mapping[str, Any]) -> str:
        return describe(name, findings)

    def export(
        self,
        name: str,
        network: keras.Model,
        path: Path,
        *,
        sample: np.ndarray,
        representative: np.ndarray | None,
        tolerance: Mapping[str, float],
        **options: Any,
    ) -> Export:
        precision = FORMATS[name][1]
        is_qdq = name == "onnx" and is_quantization_aware(network)
        options |= {
            "image_shape": sample.shape[1:],
            "sample": sample,
            "tolerance": TOLERANCES["int8" if is_qdq else precision]._replace(**tolerance),
        }
        if name == "saved_model":
            return saved_model(network, path, **options)
        if name == "onnx":
            return onnx(network, path, **options)
        return litert(network, path, precision=precision, representative=representative, **options)

    def score(self, network: keras.Model, images: np.ndarray, labels: Any) -> float | None:
        if labels is None:
            return None
        return float((classes_of(network.predict(images.astype("float32"), verbose=0)) == labels).mean())

    def order_labels(self, labels: Any, network: Sequence[str] | None, names: Sequence[str] | None) -> Any:
        order = order_classes(network, names)
        return labels if labels is None or order is None else np.asarray(order)[labels]
