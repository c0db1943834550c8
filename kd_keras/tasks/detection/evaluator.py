"""Evaluates detectors one after the other on the same images; the first one is the teacher of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kd_keras.data import Source
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import Candidate
from kd_keras.evaluation.text import describe_metric
from kd_keras.models import Detector
from kd_keras.report.sections import Network, Section
from kd_keras.tasks.detection.evaluation import evaluate_detections
from kd_keras.tasks.detection.latency import latency
from kd_keras.tasks.detection.predictions import BoxPredictions, predict_boxes
from kd_keras.tasks.detection.report import AP, detector_sections
from kd_keras.tasks.evaluator import NetworkEvaluator


class DetectionEvaluator(NetworkEvaluator):
    """Evaluates detectors on test images, as `tasks.protocols.TaskEvaluator` describes it.

    Args:
        test: images with boxes. Their size in pixels, after they are resized, decides which objects are small.
        **options: `batch_size` and `image_size`, as for `NetworkEvaluator`.

    Attributes:
        predictions: by the name of the candidate, its detections in the test images.
    """

    metric = AP

    def __init__(self, test: Source, **options: Any):
        super().__init__(test, **options)
        self.predictions: dict[str, BoxPredictions] = {}

    def evaluate(self, candidates: Iterable[Candidate]) -> None:
        """Adds the findings of all candidates, one after the other.

        Raises:
            ValueError: if one is not a detector, or its classes are not those of the images.
        """
        for candidate in candidates:
            name, network = candidate.name, candidate.network
            if not isinstance(network, Detector):
                expected = f"a detector to evaluate on {self.test.name}"
                raise ValueError(explain_mismatch(expected, f"{name}, which is not a detector"))
            self._check_classes(candidate, "a detector", network.classes)
            self.teacher = self.teacher or name
            predictions = predict_boxes(network, self.images, classes=self.test.classes or 1)
            findings = evaluate_detections(predictions, self.predictions.get(self.teacher))
            self.predictions[name] = predictions
            self.findings[name] = findings | self._cost(name, network, candidate.kilobytes)

    def measure_latency(self) -> None:
        """Adds the latency of all candidates with and without non-maximum suppression to their findings."""
        for name, findings in latency(self._timed).items():
            self.findings[name] |= findings

    def describe_data(self) -> str:
        """Sentences about the test images."""
        return f"{self._describe_images()} Agreement is the AP with the boxes of {self.teacher} as objects."

    def _sections(self, networks: Mapping[str, Network]) -> dict[str, tuple[str, Section | None]]:
        return detector_sections(networks, self.predictions, self.images, self.test.class_names)


def describe(name: str, findings: Mapping[str, Any]) -> str:
    """A sentence on how certain a detector's AP is, and on its best threshold of the score.

    >>> describe("small", {"ap": 0.5, "ap_low": 0.4, "ap_high": 0.6})
    'small: AP 0.5000 (95 %: 0.4000 to 0.6000).'
    """
    if "ap" not in findings:
        return f"{name}: AP is not known, because the images have no objects."
    text = f"{name}: {describe_metric('AP', 'ap', findings)}"
    if "score_threshold" in findings:
        text += f"; at the score {findings['score_threshold']:.2f} precision {findings['precision']:.3f}"
        text += f" and recall {findings['recall']:.3f}"
    if "only_teacher_finds" in findings:
        text += f"; {findings['only_teacher_finds']:.1%} of the objects are found by the teacher only"
    return text + "."
