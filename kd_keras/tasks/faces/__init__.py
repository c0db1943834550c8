"""Faces: is it the same person? Verification on people who are in no training image, its report, and exports."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from kd_keras import data
from kd_keras.data import Pairs, Source, all_pairs
from kd_keras.errors import explain_mismatch
from kd_keras.models import Recognizer
from kd_keras.tasks.base import Task
from kd_keras.tasks.checks import check_image_shape, refuse_ignored, refuse_soft_labels
from kd_keras.tasks.faces.embeddings import embed
from kd_keras.tasks.faces.evaluation import verification
from kd_keras.tasks.faces.evaluator import FaceEvaluator, describe
from kd_keras.tasks.faces.export import FaceExport, export_embedder
from kd_keras.tasks.faces.monitoring import is_face_network, verification_function
from kd_keras.tasks.faces.pairs import check_all_pairs, choose_images, read_test_pairs
from kd_keras.tasks.faces.splits import parse_split
from kd_keras.tasks.monitoring import MeasureStudent
from kd_keras.teacher import Teacher


class Faces(Task):
    """Identities, the margin loss of the recognizer, verification of people who are in no training image.

    Images have one class each as in classification, so that this task must be named: `task="faces"`. A folder has other
    people in `test` than in `train`. If the splits of a dataset share people, a part of the identities is selected by
    their number: `train_split="train+test/identities[:30]", test_split="train+test/identities[30:]"`.

    >>> Faces().metric
    'verification_accuracy'
    """

    name, label_kind, label_text = "faces", "class", "one identity for each image"
    metrics = ("verification_accuracy", "auc", "equal_error_rate")
    is_open_set = True
    columns = (
        "parameters", "macs", "verification_accuracy", "equal_error_rate", "rank1", "similarity_spearman", "kilobytes",
        "milliseconds",
    )  # fmt: skip
    optional_columns = ("tar_at_far_0.1", "tar_at_far_0.01", "tar_at_far_0.001", "tar_at_far_0.0001")
    export_outputs = ("embedding",)
    export_columns: ClassVar = {"lowest_cosine": ".6f"}
    export_tolerances = ("lowest_cosine",)

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
        part, identities = parse_split(split)
        with warnings.catch_warnings():
            # A folder numbers the classes of all its splits, so people without an image in this split are expected.
            warnings.filterwarnings("ignore", ".*has no images of")
            source = data.load(name, part, data_dir, **options)
        self.check_source(source)
        if identities is not None or (source.has_labels and os.path.isdir(name)):
            return data.select_identities(source, identities or slice(None))
        return source

    def check_classes(self, train: Source, test: Source) -> None:
        """Checks that no person in the training images is in the test images, as far as names tell.

        Raises:
            ValueError: if a name is in both.
        """
        shared = sorted(set(train.class_names or ()) & set(test.class_names or ()))
        if shared:
            received = f"{len(shared)} people in both, such as {shared[0]!r}"
            advice = (
                "select people by train_split='train+test/identities[:30]' and test_split='...[30:]'; if they are "
                "different people of the same names, rename their folders"
            )
            raise ValueError(explain_mismatch("test images of people who are in no training image", received, advice))

    def check_network(
        self, network: keras.Model, name: str, image_shape: tuple[int, int, int], classes: int, is_given: bool
    ) -> None:
        if not isinstance(network, Recognizer):
            advice = f"write embedder/{name}" if not is_given else "build one with models.build('embedder/...')"
            received = f"{name}, which is another kind of network"
            raise ValueError(explain_mismatch("a recognizer of identities", received, advice))
        if network.head.identities != classes:
            received = f"{name}, which has {network.head.identities}"
            advice = "add a new head with models.recognizer(network.embedder, ...)"
            raise ValueError(explain_mismatch(f"a recognizer of the {classes} identities", received, advice))
        check_image_shape(network, name, image_shape)

    def compile_options(self, has_soft_labels: bool, label_smoothing: float) -> dict[str, Any]:
        refuse_soft_labels(has_soft_labels, label_smoothing, self.label_text)
        return {}

    def callbacks(
        self, test: Source, batches: Callable[[], tf.data.Dataset], epochs: Collection[int]
    ) -> list[keras.callbacks.Callback]:
        check_all_pairs(test)  # before the training, whose first test would fail
        return [MeasureStudent(batches, verification_function, self.metrics, epochs)]

    def measure(self, network: Teacher, test: Source, batches: tf.data.Dataset) -> dict[str, float]:
        face = network.networks[0]
        if len(network.networks) > 1 or not is_face_network(face):
            return {}  # such a teacher has other features
        values = verification_function(face, batches, network.preprocess[0])()
        return {name: values[name] for name in self.metrics}

    def read_pairs(self, file: str | os.PathLike, images: Any, split: str) -> Pairs:
        return read_test_pairs(file, images, split)

    def evaluator(
        self, test: Source, questions: Sequence[str], other_images: Source | None, **options: Any
    ) -> FaceEvaluator:
        return FaceEvaluator(test, **options)

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
    ) -> FaceExport:
        if not is_face_network(network):
            received = f"{network.name!r}, which returns no embeddings"
            raise ValueError(explain_mismatch("a network of faces to export", received))
        lowest = tolerance.get("lowest_cosine")
        return export_embedder(network, path, name, sample=sample, representative=representative, lowest_cosine=lowest)

    def score(self, network: keras.Model, images: np.ndarray, labels: Any) -> float | None:
        if labels is None or not is_face_network(network):
            return None
        chosen = choose_images(labels)
        embedding = embed(network, images[chosen], flip=False)
        return dict(verification(embedding, all_pairs(labels[chosen])))["verification_accuracy"]

    def order_labels(self, labels: Any, network: Sequence[str] | None, names: Sequence[str] | None) -> Any:
        return labels  # of people whom the network does not know
