"""What differs between kinds of problems, as one class; a new task derives from it and is added to `TASKS`."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from kd_keras.data import Source
from kd_keras.errors import explain_mismatch
from kd_keras.teacher import Teacher


class Task(abc.ABC):
    """A kind of problem: its labels, loss and metrics.

    Attributes:
        name: as `--task` has it.
        label_kind: the kind of its labels, as `data.find_label_kind` names it.
        label_text: the labels in the words of a message.
        metrics: the names of what `measure` returns. The first one decides which epoch is the best: higher is better.
        class_tap: the tap whose last axis has an entry for each class.
    """

    name: ClassVar[str]
    label_kind: ClassVar[str]
    label_text: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    class_tap: ClassVar[str] = "logits"

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
        download_timeout: float,
    ) -> Source:
        """Opens a split of a dataset or folder by its name.

        Args:
            name, split, data_dir, image_channels, image_bits, download_timeout: as `data.load` takes them.
            class_names: the names of the classes in their order, if another split or a run has determined them.
        """

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
    def callbacks(self, test: Source, batches: Callable[[], tf.data.Dataset]) -> list[keras.callbacks.Callback]:
        """Callbacks of `fit` that add the metrics to the logs, if `compile_options` has none.

        Args:
            test: the test images.
            batches: makes batches of them, as `data.evaluation`.
        """

    @abc.abstractmethod
    def measure(self, network: Teacher, test: Source, batches: tf.data.Dataset) -> dict[str, float]:
        """The metrics of a network on test images, by name; none if the network does not solve this task.

        Args:
            network: with its classes in the order of the images' classes.
            test: the test images.
            batches: of them, as `data.evaluation` makes them.
        """
