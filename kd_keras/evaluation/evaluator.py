"""Asks all questions about several networks, the teacher first, on the same images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import as_batch
from kd_keras.data import evaluation as evaluation_batches
from kd_keras.data.base import Source
from kd_keras.data.selection import take_evenly
from kd_keras.errors import suggest
from kd_keras.evaluation.accuracy import accuracy
from kd_keras.evaluation.agreement import agreement
from kd_keras.evaluation.attention import attention, attention_maps
from kd_keras.evaluation.base import Predictions, halves, predict
from kd_keras.evaluation.calibration import calibration
from kd_keras.evaluation.cost import cost, latency
from kd_keras.evaluation.generalization import generalization
from kd_keras.evaluation.images import order_classes, to_channels
from kd_keras.evaluation.intervals import intervals
from kd_keras.evaluation.layer_noise import int8_layers
from kd_keras.evaluation.memory import memory
from kd_keras.evaluation.robustness import robustness
from kd_keras.evaluation.similarity import grams, similarity
from kd_keras.networks.inputs import resize_to_input
from kd_keras.networks.quantized_layers import is_quantization_aware
from kd_keras.networks.taps import Tapped
from kd_keras.teacher import Teacher

QUESTIONS = ("robustness", "generalization", "attention", "similarity", "memory", "int8")
NOISE_IMAGES = 200  # on which the noise of int8 layers is measured
LOGGER = logging.getLogger("kd_keras")


def select_questions(
    names: Iterable[str], requirements: Iterable[str] = (), with_other: bool = False
) -> tuple[str, ...]:
    """The named questions ("all" for all of them) and those that the requirements are about, in a fixed order.

    Args:
        names: of `QUESTIONS`, or "all".
        requirements: names of requirements, as `check_requirements` takes them.
        with_other: whether there are images of another dataset.

    Raises:
        ValueError: if a question is unknown, or if a requirement needs another dataset and there is none.

    >>> select_questions(["similarity"], ["max_mce"])
    ('robustness', 'similarity')
    """
    requirements = list(requirements)
    names = [*names, *["robustness"] * ("max_mce" in requirements), *["generalization"] * ("min_auroc" in requirements)]
    for name in names:
        if name not in (*QUESTIONS, "all"):
            raise ValueError(f"{name!r} is not a question of the evaluation: {suggest(name, (*QUESTIONS, 'all'))}")
    if "min_auroc" in requirements and not with_other:
        raise ValueError(
            "Requirement 'min_auroc' needs images of another dataset, but received none. Pass other_data=."
        )
    return tuple(question for question in QUESTIONS if question in names or "all" in names)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained network, and the information about it that an evaluator uses.

    Attributes:
        name: the name of its run or file; unique among the candidates.
        network: the trained Keras model, which reads pixel values from 0 to 255.
        class_names: its classes in the order of its outputs, or `None` for the order of the data.
        kilobytes: the size of its file, or `None`.
        training_images: a function that returns the training images and raises ValueError if they are not known, or
            `None`.
    """

    name: str
    network: keras.Model
    class_names: Sequence[str] | None = None
    kilobytes: float | None = None
    training_images: Callable[[], Source] | None = None

    def as_teacher(self, source: Source) -> Teacher:
        """The network with its classes in the order of a source's classes.

        Raises:
            ValueError: if its classes are not those of the images.
        """
        order = order_classes(self.class_names, source.class_names)
        units = Tapped(self.network, ["logits"], output=False).specs["logits"].shape[-1]
        count = max(2, units)  # a single unit has two classes
        if count != (source.classes or count):
            raise ValueError(
                f"{self.name} must have the {source.classes} classes of the images of {source.name}, but it has {count}"
                " classes. Pass the data that it was trained for."
            )
        return Teacher(self.network, class_order=order)


class Sample(NamedTuple):
    """Some of the test images: `images` `(N, H, W, C)` uint8 and `labels` `(N,)` or `None`."""

    images: np.ndarray
    labels: np.ndarray | None


class Evaluator:
    """Evaluates networks one after the other on the same images; the first one is the teacher of the others.

    Args:
        test: the test images.
        questions: names from `QUESTIONS`, in addition to the cheap questions, which are always asked.
        batch_size: images per forward pass, 128 by default.
        image_size: (H, W) that images are resized to; by default their own size.
        examples: the largest number of test images for "robustness", "attention" and "similarity", evenly spread, 1000
            by default; "int8" uses at most 200 of them.
        other: images of another dataset, which belong to none of the classes, for "generalization".

    Attributes:
        findings: by the name of the candidate, its findings by name.
        predictions: by the name of the candidate, its predictions for the test images.
        sample: the test images that the questions of `QUESTIONS` use; empty without such questions.
        attention_maps: by the name of the candidate, its maps of the sample, if they could be computed.
        teacher: the name of the first candidate.
    """

    def __init__(
        self,
        test: Source,
        questions: Sequence[str] = (),
        *,
        batch_size: int = 128,
        image_size: tuple[int, int] | None = None,
        examples: int = 1000,
        other: Source | None = None,
    ):
        self.test, self.other, self.questions, self.batch_size = test, other, tuple(questions), batch_size
        self.examples = examples
        self.image_size = image_size or (test.image_shape[:2] if test.image_shape else None)
        self.images = self._batches(test)
        self.sample = self._draw_sample(examples) if questions else Sample(np.empty(0), None)
        self.findings: dict[str, dict[str, Any]] = {}
        self.predictions: dict[str, Predictions] = {}
        self.attention_maps: dict[str, np.ndarray] = {}
        self.teacher = ""
        self._grams: dict[str, list[np.ndarray]] = {}
        self._timed: dict[str, tuple[keras.Model, np.ndarray]] = {}
        self._explained_classes = np.empty(0, int)
        self._ask = {
            "robustness": self._robustness,
            "generalization": self._generalization,
            "attention": self._attention,
            "similarity": self._similarity,
            "memory": self._memory,
            "int8": self._int8,
        }

    def evaluate(self, candidates: Iterable[Candidate]) -> None:
        """Adds the findings of candidates, one after the other; the first one is the teacher of the others."""
        for candidate in candidates:
            self._evaluate(candidate)

    def _evaluate(self, candidate: Candidate) -> None:
        name, reader = candidate.name, candidate.as_teacher(self.test)
        self.teacher = self.teacher or name
        predictions = self.predictions[name] = predict(reader, self.images)
        reference = self.predictions[self.teacher]
        findings = self.findings[name] = dict(accuracy(predictions)) | dict(agreement(predictions, reference))
        findings |= intervals(predictions, None if name == self.teacher else reference)
        if len(predictions.logits) > 1:
            held_out, measured = halves(predictions)
            findings |= calibration(measured, held_out=held_out)
        batch = as_batch(next(iter(self.images))).inputs
        batch = np.asarray(resize_to_input(candidate.network, batch))
        self._timed[name] = candidate.network, batch
        findings |= cost(candidate.network, batch.shape[1:])
        if candidate.kilobytes is not None:
            findings["kilobytes"] = candidate.kilobytes
        for question in self.questions:
            LOGGER.info("  %s of %s", question, name)
            self._add(question, candidate, self._ask[question], candidate, reader)

    def measure_latency(self) -> None:
        """Adds the latency of all candidates to their findings, one run of each in turn."""
        for name, findings in latency(self._timed).items():
            self.findings[name] |= findings

    def _add(self, question: str, candidate: Candidate, ask: Callable[..., Any], *arguments: Any) -> None:
        """Adds the findings of a question, or logs why it does not apply to the candidate."""
        try:
            self.findings[candidate.name] |= ask(*arguments)
        except (ValueError, OSError) as error:
            LOGGER.warning("%s of %s is left out. %s", question, candidate.name, " ".join(str(error).split()))

    def _robustness(self, candidate: Candidate, reader: Teacher) -> Any:
        if self.sample.labels is None:
            raise ValueError(f"Robustness is measured on images with labels, but {self.test.name} has none.")
        base = None if candidate.name == self.teacher else self.findings[self.teacher]
        return robustness(reader, self.sample.images, self.sample.labels, base, batch_size=self.batch_size)

    def _generalization(self, candidate: Candidate, reader: Teacher) -> Any:
        test, other = self.predictions[candidate.name], None
        if self.other is not None:
            channels = as_batch(self.images.element_spec).inputs.shape[-1]
            batches = self._batches(take_evenly(self.other, len(test.logits)))
            other = predict(reader, batches.map(lambda images, *_: to_channels(images, channels)))
        findings = dict(generalization(test, other=other))
        self._add("gap", candidate, self._gap, candidate)
        return findings

    def _gap(self, candidate: Candidate) -> Any:
        if candidate.training_images is None:
            raise ValueError(f"The gap needs the training images, but those of {candidate.name} are not known.")
        train, test = candidate.training_images(), self.predictions[candidate.name]
        batches = self._batches(take_evenly(train, len(test.logits)))
        return generalization(test, predict(candidate.as_teacher(train), batches))

    def _attention(self, candidate: Candidate, reader: Teacher) -> Any:
        if candidate.name == self.teacher:
            batches = tf.data.Dataset.from_tensor_slices(self.sample.images).batch(self.batch_size)
            self._explained_classes = predict(reader, batches.map(lambda images: tf.cast(images, tf.float32))).classes
        maps = attention_maps(reader, self.sample.images, self._explained_classes, self.batch_size)
        self.attention_maps[candidate.name] = maps
        return attention(maps, self._of_teacher(self.attention_maps, "attention maps"))

    def _similarity(self, candidate: Candidate, reader: Teacher) -> Any:
        self._grams[candidate.name] = grams(reader, self.sample.images, self.batch_size)
        return similarity(self._grams[candidate.name], self._of_teacher(self._grams, "stages"))

    def _memory(self, candidate: Candidate, reader: Teacher) -> Any:
        _, example = self._timed[candidate.name]
        return memory(candidate.network, input_shape=example.shape[1:])

    def _int8(self, candidate: Candidate, reader: Teacher) -> Any:
        if not is_quantization_aware(candidate.network):
            return {}
        images = self.sample.images[:: -(-len(self.sample.images) // NOISE_IMAGES)].astype("float32")
        pixels = np.round(np.asarray(resize_to_input(candidate.network, images)))
        return int8_layers(candidate.network, np.clip(pixels, 0, 255).astype("uint8"))

    def _of_teacher(self, values: dict[str, Any], name: str) -> Any:
        if self.teacher not in values:
            raise ValueError(f"The teacher's {name} are needed to compare with, but {self.teacher} has none.")
        return values[self.teacher]

    def _draw_sample(self, examples: int) -> Sample:
        batches = [as_batch(batch) for batch in self._batches(take_evenly(self.test, examples))]
        pixels = np.round(np.concatenate([batch.inputs for batch in batches])).astype("uint8")
        return Sample(pixels, np.concatenate([batch.label for batch in batches]) if self.test.has_labels else None)

    def _batches(self, source: Source) -> tf.data.Dataset:
        return evaluation_batches(source, batch_size=self.batch_size, image_size=self.image_size)
