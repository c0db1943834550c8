"""Evaluates detectors one after the other on the same images; the first one is the teacher of the others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_keras.contracts import as_batch
from kd_keras.data import Source, evaluation
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import Candidate, Requirement, cost
from kd_keras.evaluation.images import order_classes
from kd_keras.models import Detector
from kd_keras.networks.inputs import resize_to_input
from kd_keras.report.page import Subject
from kd_keras.tasks.detection.evaluation import evaluate_detections
from kd_keras.tasks.detection.latency import latency
from kd_keras.tasks.detection.predictions import BoxPredictions, predict_boxes
from kd_keras.tasks.detection.report import write_detection_report


class DetectionEvaluator:
    """Evaluates detectors on test images, as `tasks.protocols.TaskEvaluator` describes it.

    Args:
        test: images with boxes.
        batch_size: images per forward pass.
        image_size: `(H, W)` of the images whose pixels decide which objects are small; by default their own size.

    Attributes:
        test: the images.
        images: batches of them.
        findings: by the name of the candidate, its findings by name.
        predictions: by the name of the candidate, its detections in the test images.
        teacher: the name of the first candidate.
    """

    def __init__(self, test: Source, *, batch_size: int = 128, image_size: tuple[int, int] | None = None):
        self.test = test
        self.images = evaluation(test, batch_size=batch_size, image_size=image_size)
        self.findings: dict[str, dict[str, Any]] = {}
        self.predictions: dict[str, BoxPredictions] = {}
        self.teacher = ""
        self._timed: dict[str, tuple[Detector, np.ndarray]] = {}

    def evaluate(self, candidate: Candidate) -> None:
        """Adds a candidate's findings.

        Raises:
            ValueError: if it is no detector, or its classes are not those of the images.
        """
        name, network = candidate.name, candidate.network
        if not isinstance(network, Detector):
            raise ValueError(explain_mismatch(f"a detector to evaluate on {self.test.name}", f"{name}, which is none"))
        if order_classes(candidate.class_names, self.test.class_names) is not None:
            expected = f"a detector of the classes {self.test.class_names} of {self.test.name}, in this order"
            raise ValueError(explain_mismatch(expected, f"{name} with {candidate.class_names}"))
        self.teacher = self.teacher or name
        own = self.predictions[name] = predict_boxes(network, self.images, classes=self.test.classes or 1)
        reference = None if name == self.teacher else self.predictions[self.teacher]
        findings = self.findings[name] = evaluate_detections(own, reference)
        sample = np.asarray(resize_to_input(network, as_batch(next(iter(self.images))).inputs))
        self._timed[name] = network, sample
        findings |= cost(network, sample.shape[1:])
        if candidate.kilobytes is not None:
            findings["kilobytes"] = candidate.kilobytes

    def measure_latency(self) -> None:
        """Adds the latency of all candidates to their findings, one run of each in turn."""
        for name, findings in latency(self._timed).items():
            self.findings[name] |= findings

    def describe_data(self) -> str:
        """Sentences about the test images."""
        return (
            f"{self.test.size:,} test images of {self.test.name}. Agreement is the AP with the boxes of {self.teacher} "
            "as objects."
        )

    def write_report(
        self, path: str | os.PathLike, subjects: Sequence[Subject], requirements: Sequence[Requirement], command: str
    ) -> None:
        """Writes the page about all candidates."""
        write_detection_report(
            path,
            subjects,
            requirements,
            predictions=self.predictions,
            images=self.images,
            class_names=self.test.class_names,
            data=self.describe_data(),
            command=command,
        )


def describe(name: str, findings: Mapping[str, Any]) -> str:
    """A sentence on how certain a detector's AP is, and on its best threshold of the score.

    >>> describe("small", {"ap": 0.5, "ap_low": 0.4, "ap_high": 0.6})
    'small: AP 0.5000 (95 %: 0.4000 to 0.6000).'
    """
    if "ap" not in findings:
        return f"{name}: AP is not known, because the images have no objects."
    text = f"{name}: AP {findings['ap']:.4f}"
    if "ap_low" in findings:
        text += f" (95 %: {findings['ap_low']:.4f} to {findings['ap_high']:.4f})"
    if "difference" in findings:
        text += f", difference from the teacher {findings['difference']:+.4f}"
        text += f" ({findings['difference_low']:+.4f} to {findings['difference_high']:+.4f})"
    if "score_threshold" in findings:
        text += f"; at the score {findings['score_threshold']:.2f} precision {findings['precision']:.3f}"
        text += f" and recall {findings['recall']:.3f}"
    if "only_teacher_finds" in findings:
        text += f"; {findings['only_teacher_finds']:.1%} of the objects are found by the teacher only"
    return text + "."
