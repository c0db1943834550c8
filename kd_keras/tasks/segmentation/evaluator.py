"""Evaluates segmentation networks one after the other on the same images; the first one is the others' teacher."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kd_keras.contracts import as_batch
from kd_keras.data import Source, evaluation
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import Candidate, Requirement, cost, latency
from kd_keras.evaluation.images import order_classes
from kd_keras.networks.inputs import resize_to_input
from kd_keras.report.page import Subject
from kd_keras.tasks.segmentation.counts import PixelCounts, count_pixels
from kd_keras.tasks.segmentation.metrics import (
    pixel_calibration,
    segmentation_agreement,
    segmentation_intervals,
    segmentation_quality,
)
from kd_keras.tasks.segmentation.report import write_segmentation_report


class SegmentationEvaluator:
    """Evaluates segmentation networks on test images, as `tasks.protocols.TaskEvaluator` describes it.

    Args:
        test: images with masks.
        batch_size: images per forward pass.
        image_size: `(H, W)` that images and masks are resized to; by default their own size.

    Attributes:
        test: the images.
        images: batches of them.
        findings: by the name of the candidate, its findings by name.
        counts: by the name of the candidate, what is counted over its pixels.
        networks: by the name of the candidate, its network.
        teacher: the name of the first candidate.

    Raises:
        ValueError: if the images have no masks.
    """

    def __init__(self, test: Source, *, batch_size: int = 128, image_size: tuple[int, int] | None = None):
        if not test.has_masks:
            raise ValueError(
                explain_mismatch(f"masks in {test.name!r} to evaluate segmentation", "images without them")
            )
        self.test = test
        self.images = evaluation(test, batch_size=batch_size, image_size=image_size)
        self.findings: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, PixelCounts] = {}
        self.networks: dict[str, keras.Model] = {}
        self.teacher = ""

    def evaluate(self, candidate: Candidate) -> None:
        """Adds a candidate's findings.

        Raises:
            ValueError: if it has no logits of pixels, or its classes are not those of the images.
        """
        name, network = candidate.name, candidate.network
        if order_classes(candidate.class_names, self.test.class_names) is not None:
            expected = f"a network of the classes {self.test.class_names} of {self.test.name}, in this order"
            raise ValueError(explain_mismatch(expected, f"{name} with {candidate.class_names}"))
        own, agreement = count_pixels(network, self.images, self.networks.get(self.teacher))
        reference = self.counts[self.teacher].confusion if self.teacher else None
        self.teacher = self.teacher or name
        self.counts[name], self.networks[name] = own, network
        findings: dict[str, Any] = {**dict(segmentation_quality(own)), **dict(pixel_calibration(own))}
        findings |= dict(segmentation_intervals(own.confusion, reference))
        if agreement is not None:
            findings |= dict(segmentation_agreement(agreement))
        findings |= cost(network, self._sample(network).shape[1:])
        if candidate.kilobytes is not None:
            findings["kilobytes"] = candidate.kilobytes
        self.findings[name] = findings

    def measure_latency(self) -> None:
        """Adds the latency of all candidates to their findings, one run of each in turn."""
        timed = {name: (network, self._sample(network)) for name, network in self.networks.items()}
        for name, findings in latency(timed).items():
            self.findings[name] |= findings

    def describe_data(self) -> str:
        """Sentences about the test images."""
        return (
            f"{self.test.size:,} test images of {self.test.name}. Agreement is the fraction of pixels to which"
            f" {self.teacher} gives the same class. Intervals are over images; those of one video resemble each other,"
            " so that they are then too narrow."
        )

    def write_report(
        self, path: str | os.PathLike, subjects: Sequence[Subject], requirements: Sequence[Requirement], command: str
    ) -> None:
        """Writes the page about all candidates."""
        write_segmentation_report(
            path,
            subjects,
            requirements,
            networks=self.networks,
            confusion={name: counts.confusion for name, counts in self.counts.items()},
            images=self.images,
            class_names=self.test.class_names,
            data=self.describe_data(),
            command=command,
        )

    def _sample(self, network: keras.Model) -> np.ndarray:
        return np.asarray(resize_to_input(network, as_batch(next(iter(self.images))).inputs))


def describe(name: str, findings: Mapping[str, Any]) -> str:
    """A sentence on how certain a network's mean IoU is, and on its calibration.

    >>> describe("small", {"miou": 0.5, "miou_low": 0.4, "miou_high": 0.6, "boundary_f": 0.25})
    'small: mean IoU 0.5000 (95 %: 0.4000 to 0.6000); boundary F 0.2500.'
    """
    text = f"{name}: mean IoU {findings['miou']:.4f} (95 %: {findings['miou_low']:.4f} to {findings['miou_high']:.4f})"
    if "difference" in findings:
        text += f", difference from the teacher {findings['difference']:+.4f}"
        text += f" ({findings['difference_low']:+.4f} to {findings['difference_high']:+.4f})"
    text += f"; boundary F {findings['boundary_f']:.4f}"
    if "ece" in findings:
        text += f"; calibration error of pixels {findings['ece']:.4f}"
    return text + "."
