"""From trained runs to findings: which images each question of `kd_keras.evaluation` is asked about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from experiments.runs import load_model, load_result, saved_flags
from experiments.teachers import class_order, renormalize
from kd_keras import Teacher, data, evaluation
from kd_keras.contracts import as_batch
from kd_keras.errors import explain_mismatch, suggest
from kd_keras.evaluation import Predictions

QUESTIONS = ("robustness", "generalisation", "attention", "similarity", "memory")


def asked_questions(given: Iterable[str], demanded: Iterable[str], other_dataset: str | None) -> tuple[str, ...]:
    """The questions that were asked for, and those that demands are about.

    Raises:
        ValueError: for an unknown one, or a demand that another dataset is missing for.
    """
    given = [*given, *["robustness"] * ("max_mce" in demanded), *["generalisation"] * ("min_auroc" in demanded)]
    for question in given:
        if question not in (*QUESTIONS, "all"):
            raise ValueError(explain_mismatch("--questions= of those that there are", question, suggest(question, QUESTIONS)))
    if "min_auroc" in demanded and not other_dataset:
        raise ValueError(explain_mismatch("--other_dataset= images of other things, for --min_auroc", "none"))
    return tuple(question for question in QUESTIONS if question in given or "all" in given)


class Candidate(NamedTuple):
    """A trained network by the name of its run or file."""

    run: str
    network: keras.Model
    record: dict[str, Any]

    @classmethod
    def load(cls, run: str) -> Candidate:
        """Reads it from the disk."""
        return cls(run, load_model(run), load_result(run).get("data", {}))

    def reading(self, source: data.Source) -> Teacher:
        """The network as it reads images of a source in 0..1 and names their classes.

        Raises:
            ValueError: where its classes are not those of the images.
        """
        order = class_order(self.record, source.class_names)
        own = len(order) if order else self.network.output_shape[-1]
        if own != (source.classes or own):
            raise ValueError(explain_mismatch(f"{source.classes} classes", f"{self.run} gives {own}"))
        return Teacher(self.network, preprocess=renormalize(self.record, data.Normalisation()), class_order=order)

    @property
    def kilobytes(self) -> float:
        """The size of its file."""
        path = Path(self.run) / "model.keras" if Path(self.run).is_dir() else Path(self.run)
        return path.stat().st_size / 1000


class Inquiry:
    """Asks candidates one after the other, the teacher first, about the same images.

    Args:
        test: the images.
        questions: of `QUESTIONS`, beside those that cost little and are always asked.
        batch_size: images of one forward pass.
        image_size: (H, W) of the images, or `None` for their own.
        examples: how many images the questions of `QUESTIONS` look at, evenly spread over the test images.
        other: images of another dataset, to tell from the test images.
        data_dir: where TFDS keeps the training images of the candidates.

    Attributes:
        findings: by run, what `kd_keras.evaluation` found by name.
        answers: by run, those to the test images.
        sample: `(N, H, W, C)` uint8 and `(N,)` labels or `None`, that those `examples` are.
        maps: by run, the attention maps of the sample, where they were asked for and there are any.
    """

    def __init__(
        self,
        test: data.Source,
        questions: tuple[str, ...] = (),
        *,
        batch_size: int = 128,
        image_size: tuple[int, int] | None = None,
        examples: int = 1000,
        other: data.Source | None = None,
        data_dir: str | None = None,
    ):
        self.test, self.other, self.questions, self.data_dir = test, other, questions, data_dir
        self.batch_size = batch_size
        self.image_size = image_size or (test.image_shape[:2] if test.image_shape else None)
        self.images = self._batches(test)
        sampled = [as_batch(each) for each in self._batches(thinned(test, examples))] if questions else []
        self.sample = (np.empty(0), None)
        if sampled:
            pixels = np.round(255 * np.concatenate([batch.inputs for batch in sampled])).astype("uint8")
            self.sample = pixels, np.concatenate([batch.label for batch in sampled]) if test.labelled else None
        self.findings: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Predictions] = {}
        self.maps: dict[str, np.ndarray] = {}
        self._grams: dict[str, list[np.ndarray]] = {}
        self._timed: dict[str, tuple[keras.Model, np.ndarray]] = {}
        self.teacher = ""

    def ask(self, candidate: Candidate) -> None:
        """Adds a candidate's findings; the first is the teacher of those after it."""
        reading, run = candidate.reading(self.test), candidate.run
        self.teacher = self.teacher or run
        own = self.answers[run] = evaluation.predict(reading, self.images)
        theirs = self.answers[self.teacher]
        found = self.findings[run] = dict(evaluation.accuracy(own)) | dict(evaluation.agreement(own, theirs))
        found |= evaluation.intervals(own, None if run == self.teacher else theirs)
        if len(own.logits) > 1:
            fits, measures = evaluation.halves(own)
            found |= evaluation.calibration(measures, held_out=fits)
        some = tf.image.resize(as_batch(next(iter(self.images))).inputs, candidate.network.input_shape[1:3]).numpy()
        self._timed[run] = candidate.network, some
        found |= evaluation.cost(candidate.network, some.shape[1:])
        found["kilobytes"] = candidate.kilobytes
        for question in self.questions:
            self._found(question, candidate, lambda: getattr(self, f"_{question}")(candidate, reading))

    def time_in_turns(self) -> None:
        """Adds to everyone's findings how long the networks take, one run of each after the other."""
        for run, found in evaluation.latency(self._timed).items():
            self.findings[run] |= found

    def _found(self, question: str, candidate: Candidate, ask: Callable[[], Any]) -> None:
        """A question that does not fit a candidate is left out of its findings, with the reason."""
        try:
            self.findings[candidate.run] |= ask()
        except (ValueError, OSError) as error:
            print(f"{question} of {candidate.run} is left out. {' '.join(str(error).split())}", flush=True)

    def _robustness(self, candidate: Candidate, reading: Teacher) -> Any:
        images, labels = self.sample
        if labels is None:
            raise ValueError(explain_mismatch("labels", f"{self.test.name}, which has none"))
        base = None if candidate.run == self.teacher else self.findings[self.teacher]
        return evaluation.robustness(reading, images, labels, base, batch_size=self.batch_size)

    def _generalization(self, candidate: Candidate, reading: Teacher) -> Any:
        test, other = self.answers[candidate.run], None
        if self.other is not None:
            channels = as_batch(self.images.element_spec).inputs.shape[-1]
            others = self._batches(thinned(self.other, len(test.logits)))
            other = evaluation.predict(reading, others.map(lambda images, *_: with_channels(images, channels)))
        found = dict(evaluation.generalization(test, other=other))
        self._found("gap", candidate, lambda: self._gap(candidate))
        return found

    def _gap(self, candidate: Candidate) -> Any:
        train, test = training_images(candidate.run, self.data_dir), self.answers[candidate.run]
        batches = self._batches(thinned(train, len(test.logits)))
        return evaluation.generalization(test, evaluation.predict(candidate.reading(train), batches))

    def _attention(self, candidate: Candidate, reading: Teacher) -> Any:
        if candidate.run == self.teacher:
            batches = tf.data.Dataset.from_tensor_slices(self.sample[0]).batch(self.batch_size)
            scaled = batches.map(lambda images: tf.cast(images, tf.float32) / 255)
            self._asked_classes = evaluation.predict(reading, scaled).chosen
        maps = evaluation.attention_maps(reading, self.sample[0], self._asked_classes, self.batch_size)
        self.maps[candidate.run] = maps
        return evaluation.attention(maps, self._of_teacher(self.maps))

    def _similarity(self, candidate: Candidate, reading: Teacher) -> Any:
        self._grams[candidate.run] = evaluation.grams(reading, self.sample[0], self.batch_size)
        return evaluation.similarity(self._grams[candidate.run], self._of_teacher(self._grams))

    def _memory(self, candidate: Candidate, reading: Teacher) -> Any:
        return evaluation.memory(candidate.network)

    def _of_teacher(self, kept: dict[str, Any]) -> Any:
        if self.teacher not in kept:
            raise ValueError(explain_mismatch("the teacher's, to compare with", "none"))
        return kept[self.teacher]

    def _batches(self, source: data.Source) -> tf.data.Dataset:
        return data.evaluation(source, batch_size=self.batch_size, image_size=self.image_size)


def thinned(source: data.Source, count: int) -> data.Source:
    """At most so many of a source's examples, evenly spread: every class of one that stands in its classes' order."""
    step = -(-source.size // count)
    return dataclasses.replace(source, examples=source.examples.shard(step, 0), size=-(-source.size // step))


def training_images(run: str, data_dir: str | None) -> data.Source:
    """The images that a run was trained on.

    Raises:
        ValueError: for a bare `.keras` file, which does not say.
    """
    given = saved_flags(run)
    if "dataset" not in given:
        raise ValueError(explain_mismatch("a run that names its training images", f"{run}, without flags.txt"))
    train = data.load(given["dataset"], given["train_split"], data_dir or given.get("data_dir"))
    left_out = [int(number) for number in given.get("without_classes", "").split(",") if number]
    return train.without(left_out) if left_out else train


def with_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Images `(B, H, W, 1 or 3)` as grey or as colour images."""
    if images.shape[-1] == channels:
        return images
    return tf.image.grayscale_to_rgb(images) if channels == 3 else tf.image.rgb_to_grayscale(images)
