"""Evaluates segmentation networks in one pass over the same images; the first one is the teacher of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kd_keras.data import Source
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import Candidate
from kd_keras.evaluation.text import describe_metric
from kd_keras.report.sections import Network, Section
from kd_keras.tasks.evaluator import NetworkEvaluator
from kd_keras.tasks.segmentation.counts import AgreementCounts, PixelCounts, class_count, count_pixels
from kd_keras.tasks.segmentation.metrics import (
    pixel_calibration,
    segmentation_agreement,
    segmentation_intervals,
    segmentation_quality,
)
from kd_keras.tasks.segmentation.report import MEAN_IOU, segmentation_sections


class SegmentationEvaluator(NetworkEvaluator):
    """Evaluates segmentation networks on test images, as `tasks.protocols.TaskEvaluator` describes it.

    Args:
        test: images with masks.
        **options: `batch_size` and `image_size`, as for `NetworkEvaluator`.

    Attributes:
        counts: by the name of the candidate, what is counted over its pixels.
        networks: by the name of the candidate, its network.

    Raises:
        ValueError: if the images have no masks.
    """

    metric = MEAN_IOU

    def __init__(self, test: Source, **options: Any):
        if not test.has_masks:
            raise ValueError(
                explain_mismatch(f"masks in {test.name!r} to evaluate segmentation", "images without them")
            )
        super().__init__(test, **options)
        self.counts: dict[str, PixelCounts] = {}
        self.networks: dict[str, keras.Model] = {}

    def evaluate(self, candidates: Iterable[Candidate]) -> None:
        """Adds the findings of all candidates, which see each image together.

        Raises:
            ValueError: if one has no logits of pixels, or its classes are not those of the images.
        """
        candidates = list(candidates)
        for candidate in candidates:
            self._check_classes(candidate, "a network", class_count(candidate.network))
        self.networks = {candidate.name: candidate.network for candidate in candidates}
        self.counts, agreements = count_pixels(self.networks, self.images)
        self.teacher = candidates[0].name
        for candidate in candidates:
            self.findings[candidate.name] = self._findings(candidate, agreements.get(candidate.name))

    def _findings(self, candidate: Candidate, agreement: AgreementCounts | None) -> dict[str, Any]:
        """The findings of a candidate, without its latency; `agreement` is `None` for the teacher."""
        counts = self.counts[candidate.name]
        findings: dict[str, Any] = {**dict(segmentation_quality(counts)), **dict(pixel_calibration(counts))}
        if agreement is None:
            findings |= dict(segmentation_intervals(counts.confusion))
        else:
            findings |= dict(segmentation_intervals(counts.confusion, self.counts[self.teacher].confusion))
            findings |= dict(segmentation_agreement(agreement))
        return findings | self._cost(candidate.name, candidate.network, candidate.kilobytes)

    def describe_data(self) -> str:
        """Sentences about the test images."""
        return (
            f"{self._describe_images()} Agreement is the fraction of pixels to which {self.teacher} gives the same"
            " class. Intervals are over images. Images of one video resemble each other, so the intervals are too"
            " narrow for such data."
        )

    def _sections(self, networks: Mapping[str, Network]) -> dict[str, tuple[str, Section | None]]:
        confusion = {name: counts.confusion for name, counts in self.counts.items()}
        return segmentation_sections(networks, self.networks, confusion, self.images, self.test.class_names)


def describe(name: str, findings: Mapping[str, Any]) -> str:
    """A sentence on how certain a network's mean IoU is, and on its calibration.

    >>> describe("small", {"miou": 0.5, "miou_low": 0.4, "miou_high": 0.6, "boundary_f": 0.25})
    'small: mean IoU 0.5000 (95 %: 0.4000 to 0.6000); boundary F 0.2500.'
    """
    text = f"{name}: {describe_metric('mean IoU', 'miou', findings)}; boundary F {findings['boundary_f']:.4f}"
    if "ece" in findings:
        text += f"; calibration error of pixels {findings['ece']:.4f}"
    return text + "."
