"""What differs between kinds of problems, as one class; a new task derives from it and is added to `TASKS`."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from kd_keras.data import Pairs, Source
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.images import order_classes
from kd_keras.tasks.protocols import TaskEvaluator, TaskExport
from kd_keras.teacher import Teacher


class Task(abc.ABC):
    """A kind of problem: its labels, loss and metrics.

    Attributes:
        name: as `--task` has it.
        label_kind: the kind of its labels, as `data.find_label_kind` names it.
        label_text: the labels in the words of a message.
        metrics: the names of what `measure` returns. The first one decides which epoch is the best: higher is better.
        class_tap: the tap whose last axis has an entry for each class.
        columns: the findings of `evaluator` that the table of an evaluation shows.
        optional_columns: those that it shows if a network has them.
        is_open_set: whether test images have no loss, so that only `callbacks` measure: because their classes are not
            those of the training images (faces), or because training uses no labels (pretraining).
        exports_learned_ranges: whether a "litert_int8" export has the ranges that a quantization-aware network learned.
        export_outputs: the names of the outputs of an exported file, by which its task is recognized.
        export_columns: the fields of an export that the table of an export shows, with the format of their values.
        export_tolerances: the names that `tolerance` of `export` may have.
    """

    name: ClassVar[str]
    label_kind: ClassVar[str]
    label_text: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    class_tap: ClassVar[str] = "logits"
    columns: ClassVar[tuple[str, ...]]
    optional_columns: ClassVar[tuple[str, ...]] = ()
    is_open_set: ClassVar[bool] = False
    exports_learned_ranges: ClassVar[bool] = False
    export_outputs: ClassVar[tuple[str, ...]]
    export_columns: ClassVar[Mapping[str, str]]
    export_tolerances: ClassVar[tuple[str, ...]]

    @property
    def metric(self) -> str:
        """The metric that decides which epoch is the best."""
        return self.metrics[0]

    def check_source(self, source: Source) -> None:
        """Checks that a source has labels of this task, or none.

        Raises:
            ValueError: if it has other labels.
        """
        if source.label_kind not in (None, self.label_kind):
            received = f"labels of the kind {source.label_kind!r}"
            expected = f"{self.label_text} in {source.name!r} for the task {self.name!r}"
            raise ValueError(explain_mismatch(expected, received, "choose another task or other data"))

    @abc.abstractmethod
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
        """Opens a split of a dataset or folder by its name.

        Args:
            name, split, data_dir, image_channels, image_bits, download_timeout: as `data.load` takes them.
            class_names: the names of the classes in their order, if another split or a run has determined them.
            ignored: values of masks that belong to no class; a task without masks refuses them.
        """

    def check_classes(self, train: Source, test: Source) -> None:
        """Checks that labeled test images have the classes that the task needs, given those of the training.

        Raises:
            ValueError: if they are not the same classes in the same order.
        """
        if (test.class_names, test.classes) != (train.class_names, train.classes):
            raise ValueError(
                "Training and test images must have the same classes in the same order, but they have "
                f"{train.class_names or train.classes} and {test.class_names or test.classes}."
            )

    @abc.abstractmethod
    def check_network(
        self, network: keras.Model, name: str, image_shape: tuple[int, int, int], classes: int, is_given: bool
    ) -> None:
        """Checks that a network to train solves problems of this task.

        Args:
            network: the network.
            name: what it is called in a message.
            image_shape: `(H, W, C)` of the images to train on.
            classes: their number of classes.
            is_given: whether the network was passed or loaded, and not built for these images.

        Raises:
            ValueError: if it does not.
        """

    @abc.abstractmethod
    def compile_options(self, has_soft_labels: bool, label_smoothing: float) -> dict[str, Any]:
        """The loss of the labels and the metrics, as `Distiller.compile` takes them.

        Args:
            has_soft_labels: whether labels are distributions over classes.
            label_smoothing: the fraction of a label that is spread evenly over all classes.
        """

    @abc.abstractmethod
    def callbacks(
        self, test: Source, batches: Callable[[], tf.data.Dataset], epochs: Collection[int]
    ) -> list[keras.callbacks.Callback]:
        """Callbacks of `fit` that add the metrics to the logs, if `compile_options` has none.

        Args:
            test: the test images.
            batches: makes batches of them, as `data.evaluation`.
            epochs: those after which there is a test, counted from 1.
        """

    @abc.abstractmethod
    def measure(self, network: Teacher, test: Source, batches: tf.data.Dataset) -> dict[str, float]:
        """The metrics of a network on test images, by name; none if the network does not solve this task.

        Args:
            network: with its classes in the order of the images' classes.
            test: the test images.
            batches: of them, as `data.evaluation` makes them.
        """

    # ---- evaluation

    def select_questions(self, names: Iterable[str], requirements: Iterable[str], with_other: bool) -> tuple[str, ...]:
        """The named questions that take more time ("all" for all of them), and those that requirements are about.

        Args:
            names: of questions, or "all".
            requirements: names of requirements.
            with_other: whether there are images of another dataset.

        Raises:
            ValueError: if a question is unknown, or there are images of another dataset.
        """
        unknown = [name for name in names if name != "all"]
        if unknown or with_other:
            received = ", ".join(unknown) or "images of another dataset"
            raise ValueError(explain_mismatch(f"no questions that take more time, for {self.name}", received))
        return ()

    def read_pairs(self, file: str | os.PathLike, images: Any, split: str) -> Pairs:
        """Reads the pairs of test images that are verified; a task that compares no images refuses them.

        Args:
            file: the path.
            images: the test images, as the `data` of `Recipe`.
            split: of them.

        Raises:
            ValueError: if the task compares no images, or the file does not fit the images.
        """
        received = f"pairs={os.fspath(file)} for the task {self.name!r}"
        advice = "leave them out, or pass task='faces'"
        raise ValueError(explain_mismatch("the task 'faces' to verify pairs of images", received, advice))

    @abc.abstractmethod
    def evaluator(
        self,
        test: Source,
        questions: Sequence[str],
        other_images: Source | None,
        *,
        batch_size: int,
        image_size: tuple[int, int] | None,
        examples: int,
        pairs: Pairs | None,
    ) -> TaskEvaluator:
        """Makes an evaluator.

        Args:
            test: the test images.
            questions: of `select_questions`.
            other_images: images of another dataset, or `None`.
            batch_size: images per forward pass.
            image_size: `(H, W)` that images are resized to; by default their own size.
            examples: the largest number of test images for the questions.
            pairs: of `read_pairs`, or `None`.
        """

    @abc.abstractmethod
    def describe(self, name: str, findings: Mapping[str, Any]) -> str:
        """A sentence on the findings about a network, for the text of an evaluation."""

    # ---- export

    @abc.abstractmethod
    def export(
        self,
        name: str,
        network: keras.Model,
        path: Path,
        *,
        sample: np.ndarray,
        labels: Any,
        class_names: Sequence[str] | None,
        representative: np.ndarray | None,
        tolerance: Mapping[str, float],
    ) -> TaskExport:
        """Exports a network in a format, compares it with the network on a sample, and puts it in its place.

        Args:
            name: one of `FORMATS`.
            network: the network.
            path: the file or the directory that is written.
            sample: test images `(N, H, W, C)` uint8.
            labels: of these images, in the order of the network's classes, or `None`.
            class_names: the names of the network's classes, or `None`.
            representative: training images `(N, H, W, C)` uint8 for "litert_int8".
            tolerance: replaces entries of the task's tolerance of the format.

        Raises:
            ValueError: if the export differs by more than the tolerance, or the format cannot store the network.
        """

    @abc.abstractmethod
    def score(self, network: keras.Model, images: np.ndarray, labels: Any) -> float | None:
        """The `metric` of a network on images `(N, H, W, C)` uint8.

        It is `None` if there are no labels, or the network is not one of this task.
        """

    def order_labels(self, labels: Any, network: Sequence[str] | None, names: Sequence[str] | None) -> Any:
        """Labels `(N, ...)` of the data in the order of a network's classes.

        Args:
            labels: of the data, or `None`.
            network: the names of the network's classes, or `None` if they are not known.
            names: those of the data's classes, or `None`.

        Raises:
            ValueError: if the network lacks a class of the data, or the task needs the same order.
        """
        order = order_classes(network, names)
        if order is not None:
            expected = f"a network for {self.name} whose classes have the order of the data"
            raise ValueError(explain_mismatch(expected, f"one with the order {list(order)}"))
        return labels
