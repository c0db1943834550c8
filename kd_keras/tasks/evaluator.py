"""What the evaluators of several tasks share: the test images, the size and the latency of networks, and the page."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from kd_keras.contracts import as_batch
from kd_keras.data import Source, evaluation
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import Candidate, Requirement, cost, latency
from kd_keras.evaluation.images import order_classes
from kd_keras.networks.inputs import resize_to_input
from kd_keras.report.page import Subject, name_networks
from kd_keras.report.sections import Metric, Network, Section
from kd_keras.tasks.page import write_page


class NetworkEvaluator(abc.ABC):
    """The base of an evaluator, as `tasks.protocols.TaskEvaluator` describes it.

    Args:
        test: the test images.
        batch_size: images per forward pass.
        image_size: `(H, W)` that images and labels are resized to; by default their own size.

    Attributes:
        metric: the metric that the page is about.
        test: the test images.
        images: batches of them.
        image_size: as given.
        findings: by the name of the candidate, its findings by name.
        teacher: the name of the first candidate.
    """

    metric: ClassVar[Metric]

    def __init__(self, test: Source, *, batch_size: int = 128, image_size: tuple[int, int] | None = None):
        self.test = test
        self.images = evaluation(test, batch_size=batch_size, image_size=image_size)
        self.image_size = image_size
        self.findings: dict[str, dict[str, Any]] = {}
        self.teacher = ""
        self._timed: dict[str, tuple[Any, np.ndarray]] = {}

    @abc.abstractmethod
    def evaluate(self, candidates: Iterable[Candidate]) -> None:
        """Adds the findings of all candidates, the teacher first, without their latency."""

    def measure_latency(self) -> None:
        """Adds the latency of all candidates to their findings, one run of each in turn."""
        for name, findings in latency(self._timed).items():
            self.findings[name] |= findings

    @abc.abstractmethod
    def describe_data(self) -> str:
        """Sentences about the test images."""

    def _describe_images(self) -> str:
        """A sentence on the test images and on the size at which they are evaluated."""
        size = self.image_size
        resized = "" if size is None else f", evaluated at {size[0]} x {size[1]} pixels"
        return f"{self.test.size:,} test images of {self.test.name}{resized}."

    def write_report(
        self, path: str | os.PathLike, subjects: Sequence[Subject], requirements: Sequence[Requirement], command: str
    ) -> None:
        """Writes the page about all candidates."""
        sections = self._sections(name_networks(subjects))
        data = self.describe_data()
        write_page(path, subjects, requirements, metric=self.metric, sections=sections, data=data, command=command)

    @abc.abstractmethod
    def _sections(self, networks: Mapping[str, Network]) -> dict[str, tuple[str, Section | None]]:
        """The sections of the page, by the names of the candidates."""

    def _check_classes(self, candidate: Candidate, kind: str, count: int) -> None:
        """Raises a ValueError if a candidate, a network of some kind and `count` classes, has other classes than the
        images.
        """
        if order_classes(candidate.class_names, self.test.class_names) is not None:
            expected = f"{kind} of the classes {self.test.class_names} of {self.test.name}, in this order"
            raise ValueError(explain_mismatch(expected, f"{candidate.name} with {candidate.class_names}"))
        if self.test.classes is not None and count != self.test.classes:
            expected = f"{kind} of the {self.test.classes} classes of {self.test.name}"
            advice = "if the images lack some of its classes, pass class_names= with the names of all"
            raise ValueError(explain_mismatch(expected, f"{candidate.name} with {count}", advice))

    def _cost(self, name: str, network: keras.Model, kilobytes: float | None) -> dict[str, Any]:
        """The findings about the size of a candidate's network, which `measure_latency` then runs too."""
        sample = np.asarray(resize_to_input(network, as_batch(next(iter(self.images))).inputs))
        self._timed[name] = network, sample
        findings: dict[str, Any] = dict(cost(network, sample.shape[1:]))
        return findings if kilobytes is None else {**findings, "kilobytes": kilobytes}
