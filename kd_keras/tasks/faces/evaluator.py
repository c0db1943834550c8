"""Evaluates networks of faces one after the other on the same images; the first one is the teacher of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kd_keras.contracts import as_batch
from kd_keras.data import Pairs, Source, all_pairs
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import Candidate
from kd_keras.evaluation.cost import saved_kilobytes
from kd_keras.evaluation.text import describe_metric
from kd_keras.models import Recognizer
from kd_keras.report.sections import Network, Section
from kd_keras.tasks.evaluator import NetworkEvaluator
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
from kd_keras.tasks.faces.page import VERIFICATION, face_sections
from kd_keras.tasks.faces.pairs import select_images, take_identities
from kd_keras.tasks.faces.verification import measure_roc, threshold_at_far

MANY_PAIRS = 50_000  # from which a fifth of the resamples is drawn


class FaceEvaluator(NetworkEvaluator):
    """Evaluates networks of faces on pairs of test images, as `tasks.protocols.TaskEvaluator` describes it.

    An embedding is that of an image alone, without its mirror image, as an export computes it. Of a recognizer only the
    part that computes the embedding is measured, because its head is not exported.

    Args:
        test: images with identities.
        examples: the largest number of images from which all pairs are made; of more images a part of the people is
            selected.
        pairs: the pairs to verify, by the numbers of the test images; by default all pairs of `examples` images.
        **options: `batch_size` and `image_size`, as for `NetworkEvaluator`.

    Attributes:
        labels: `(N,)`, the identities of the images.
        pairs: of these images.
        has_given_pairs: whether these are given pairs, and not all of them.
        embeddings: by the name of the candidate, `(N, D)` unit vectors.

    Raises:
        ValueError: if the images have no identities, there are too few pairs, or given pairs contradict the labels.
    """

    metric = VERIFICATION

    def __init__(self, test: Source, *, examples: int = 1000, pairs: Pairs | None = None, **options: Any):
        if not test.has_labels:
            raise ValueError(explain_mismatch(f"identities in {test.name!r} to verify faces", "images without labels"))
        self.has_given_pairs = pairs is not None
        if pairs is None:
            images = take_identities(test, examples)
        else:
            images, pairs = select_images(test, pairs)
        super().__init__(images, **options)
        self.labels = np.concatenate([np.asarray(as_batch(element).label) for element in self.images])
        self.pairs = all_pairs(self.labels) if pairs is None else pairs
        is_same = self.labels[self.pairs.first] == self.labels[self.pairs.second]
        if wrong := np.count_nonzero(is_same != self.pairs.same):
            expected = f"genuine and impostor pairs as the labels of {test.name!r} have them"
            received = f"labels that contradict {wrong} of {len(is_same)} pairs"
            raise ValueError(explain_mismatch(expected, received, "pass the pairs of these images"))
        self.embeddings: dict[str, np.ndarray] = {}

    def evaluate(self, candidates: Iterable[Candidate]) -> None:
        """Adds the findings of all candidates, one after the other.

        Raises:
            ValueError: if one is not a network of faces.
        """
        for candidate in candidates:
            name, network = candidate.name, candidate.network
            if not is_face_network(network):
                expected = f"a network of faces to evaluate on {self.test.name}, with a layer 'embedding' at its end"
                raise ValueError(explain_mismatch(expected, f"{name}, which returns no embeddings"))
            network = network.embedder if isinstance(network, Recognizer) else network
            embed = embedding_function(network, self.images)
            self.teacher = self.teacher or name
            self.embeddings[name] = embed_all(embed, self.images, name, images=len(self.labels))[0]
            self.findings[name] = self._findings(name) | self._cost(name, network, saved_kilobytes(network))

    def _findings(self, name: str) -> dict[str, Any]:
        """What the embeddings of a candidate show."""
        embedding = self.embeddings[name]
        reference = None if name == self.teacher else self.embeddings[self.teacher]
        findings = {**dict(verification(embedding, self.pairs)), **dict(identification(embedding, self.labels))}
        if rates := measurable_rates(self.pairs):
            roc = measure_roc(pair_similarities(embedding, self.pairs), self.pairs.same)
            findings |= {"threshold": threshold_at_far(roc, rates[-1]), "threshold_far": rates[-1]}
        if len(np.unique(self.labels)) > 2:
            resamples = RESAMPLES if len(self.pairs.same) < MANY_PAIRS else RESAMPLES // 5
            findings |= dict(intervals(embedding, self.labels, self.pairs, reference, resamples=resamples))
        if reference is not None:
            findings |= dict(agreement(embedding, reference, self.pairs))
            teacher_accuracy = self.findings[self.teacher]["verification_accuracy"]
            findings["difference"] = findings["verification_accuracy"] - teacher_accuracy
            # The interval is that of all decisions together; their mean differs slightly from that of the folds if
            # the sizes of these differ.
            for end in ("low", "high"):
                if f"verification_accuracy_difference_{end}" in findings:
                    findings[f"difference_{end}"] = findings[f"verification_accuracy_difference_{end}"]
        return findings

    def describe_data(self) -> str:
        """Sentences about the test images."""
        genuine = int(np.count_nonzero(self.pairs.same))
        same_answer = max(genuine, len(self.pairs.same) - genuine) / len(self.pairs.same)
        return (
            f"{len(self.labels):,} test images of {len(np.unique(self.labels))} people of {self.test.name}, who must be"
            f" in no training image: {genuine:,} genuine and {len(self.pairs.same) - genuine:,} impostor pairs"
            f"{' of a file' if self.has_given_pairs else ''}. The same answer to all of them has a verification"
            f" accuracy of {same_answer:.4f}."
        )

    def _sections(self, networks: Mapping[str, Network]) -> dict[str, tuple[str, Section | None]]:
        batches = [np.asarray(as_batch(element).inputs).round().astype("uint8") for element in self.images]
        images = np.concatenate(batches)
        return face_sections(networks, self.embeddings, self.pairs, images, self.labels, self.test.class_names)


def describe(name: str, findings: Mapping[str, Any]) -> str:
    """A sentence on how certain the accuracy is, and on the threshold.

    >>> describe("small", {"verification_accuracy": 0.9, "threshold": 0.5, "threshold_far": 0.01})
    'small: verification accuracy 0.9000; at a FAR of 0.01 a pair is accepted if its cosine is at least 0.500.'
    """
    metric = describe_metric("verification accuracy", "verification_accuracy", findings, "95 % over people")
    text = f"{name}: {metric}"
    if "threshold" in findings:
        text += f"; at a FAR of {findings['threshold_far']:g} a pair is accepted if its cosine is at least"
        text += f" {findings['threshold']:.3f}"
    return text + "."
