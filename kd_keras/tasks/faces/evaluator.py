"""Evaluates networks of faces one after the other on the same images; the first one is the teacher of the others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kd_keras.contracts import as_batch
from kd_keras.data import Pairs, Source, all_pairs, evaluation
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import Candidate, Requirement, cost, latency
from kd_keras.evaluation.images import take_evenly
from kd_keras.models import Recognizer
from kd_keras.networks.inputs import resize_to_input
from kd_keras.report.page import Subject
from kd_keras.tasks.faces.embeddings import pair_similarities
from kd_keras.tasks.faces.evaluation import (
    RESAMPLES,
    agreement,
    identification,
    intervals,
    measurable_rates,
    verification,
)
from kd_keras.tasks.faces.monitoring import embed_all, embedding_function, is_face_network
from kd_keras.tasks.faces.page import write_face_report
from kd_keras.tasks.faces.verification import measure_roc, threshold_at_far

MANY_PAIRS = 50_000  # from which a fifth of the resamples is drawn


class FaceEvaluator:
    """Evaluates networks of faces on all pairs of test images, as `tasks.protocols.TaskEvaluator` describes it.

    An embedding is that of an image alone, without its mirror image, as an export computes it. Of a recognizer only the
    part that computes the embedding is measured, because its head is not exported.

    Args:
        test: images with identities.
        batch_size: images per forward pass.
        image_size: `(H, W)` that images are resized to; by default their own size.
        examples: the largest number of images from which pairs are made; more are thinned out evenly.

    Attributes:
        test: the images.
        images: batches of them.
        pairs: all pairs of them.
        findings: by the name of the candidate, its findings by name.
        embeddings: by the name of the candidate, `(N, D)` unit vectors.
        teacher: the name of the first candidate.

    Raises:
        ValueError: if the images have no identities, or there are too few pairs.
    """

    def __init__(
        self,
        test: Source,
        *,
        batch_size: int = 128,
        image_size: tuple[int, int] | None = None,
        examples: int = 1000,
    ):
        if not test.has_labels:
            raise ValueError(explain_mismatch(f"identities in {test.name!r} to verify faces", "images without labels"))
        self.test = test
        self.images = evaluation(take_evenly(test, examples), batch_size=batch_size, image_size=image_size)
        self.labels = np.concatenate([np.asarray(as_batch(element).label) for element in self.images])
        self.pairs: Pairs = all_pairs(self.labels)
        self.findings: dict[str, dict[str, Any]] = {}
        self.embeddings: dict[str, np.ndarray] = {}
        self.teacher = ""
        self._timed: dict[str, tuple[keras.Model, np.ndarray]] = {}

    def evaluate(self, candidate: Candidate) -> None:
        """Adds a candidate's findings.

        Raises:
            ValueError: if it is no network of faces.
        """
        name, network = candidate.name, candidate.network
        if not is_face_network(network):
            expected = f"a network of faces to evaluate on {self.test.name}, with a layer 'embedding' at its end"
            raise ValueError(explain_mismatch(expected, f"{name}, which is none"))
        network = network.embedder if isinstance(network, Recognizer) else network
        self.teacher = self.teacher or name
        function = embedding_function(network, self.images)
        own = self.embeddings[name] = embed_all(function, self.images, name, images=len(self.labels))[0]
        reference = None if name == self.teacher else self.embeddings[self.teacher]
        findings: dict[str, Any] = {**dict(verification(own, self.pairs)), **dict(identification(own, self.labels))}
        if rates := measurable_rates(self.pairs):
            roc = measure_roc(pair_similarities(own, self.pairs), self.pairs.same)
            findings |= {"threshold": threshold_at_far(roc, rates[-1]), "threshold_far": rates[-1]}
        if len(np.unique(self.labels)) > 2:
            resamples = RESAMPLES if len(self.pairs.same) < MANY_PAIRS else RESAMPLES // 5
            findings |= dict(intervals(own, self.labels, self.pairs, reference, resamples=resamples))
        if reference is not None:
            findings |= dict(agreement(own, reference, self.pairs))
            before = self.findings[self.teacher]["verification_accuracy"]
            findings["difference"] = findings["verification_accuracy"] - before
            # Of the decisions of all folds together, whose mean differs a little if folds differ in their size.
            for end in ("low", "high"):
                if f"verification_accuracy_difference_{end}" in findings:
                    findings[f"difference_{end}"] = findings[f"verification_accuracy_difference_{end}"]
        sample = np.asarray(resize_to_input(network, as_batch(next(iter(self.images))).inputs))
        self._timed[name] = network, sample
        self.findings[name] = findings | {**dict(cost(network, sample.shape[1:])), "kilobytes": _kilobytes(network)}

    def measure_latency(self) -> None:
        """Adds the latency of all candidates to their findings, one run of each in turn."""
        for name, findings in latency(self._timed).items():
            self.findings[name] |= findings

    def describe_data(self) -> str:
        """Sentences about the test images."""
        genuine = int(np.count_nonzero(self.pairs.same))
        return (
            f"{len(self.labels):,} test images of {len(np.unique(self.labels))} people of {self.test.name}, who must be"
            f" in no training image: {genuine:,} genuine and {len(self.pairs.same) - genuine:,} impostor pairs."
        )

    def write_report(
        self, path: str | os.PathLike, subjects: Sequence[Subject], requirements: Sequence[Requirement], command: str
    ) -> None:
        """Writes the page about all candidates."""
        pixels = np.concatenate([np.asarray(as_batch(element).inputs) for element in self.images])
        write_face_report(
            path,
            subjects,
            requirements,
            embeddings=self.embeddings,
            pairs=self.pairs,
            images=pixels.round().astype("uint8"),
            labels=self.labels,
            class_names=self.test.class_names,
            data=self.describe_data(),
            command=command,
        )


def _kilobytes(network: keras.Model) -> float:
    """The size of the `.keras` file of a network without its head."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.keras"
        network.save(path)
        return path.stat().st_size / 1000


def describe(name: str, findings: Mapping[str, Any]) -> str:
    """A sentence on how certain the accuracy is, and on the threshold.

    >>> describe("small", {"verification_accuracy": 0.9, "threshold": 0.5, "threshold_far": 0.01})
    'small: verification accuracy 0.9000; a pair is accepted from the cosine 0.500 on at a FAR of 0.01.'
    """
    text = f"{name}: verification accuracy {findings['verification_accuracy']:.4f}"
    if "verification_accuracy_low" in findings:
        low, high = (findings[f"verification_accuracy_{end}"] for end in ("low", "high"))
        text += f" (95 % over people: {low:.4f} to {high:.4f})"
    if "difference" in findings:
        text += f", difference from the teacher {findings['difference']:+.4f}"
    if "difference_low" in findings:
        text += f" ({findings['difference_low']:+.4f} to {findings['difference_high']:+.4f})"
    if "threshold" in findings:
        text += f"; a pair is accepted from the cosine {findings['threshold']:.3f} on at a FAR of"
        text += f" {findings['threshold_far']:g}"
    return text + "."
