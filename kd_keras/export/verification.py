"""What an export is held against: the network that it was made of, on real images.

A form is accepted when its own runtime loads it, when it differs from its source by no more than its tolerance, and
when it holds the student alone, which is counted: an adapter or a teacher in it would show.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.export.runtimes import Run, latency, load, size, weights
from kd_keras.networks.taps import Tapped


class Tolerance(NamedTuple):
    """How far an export may be from its source: the largest `difference` of a probability, the lowest `agreement` on
    the class (a share), and the largest `accuracy_drop` (a share; it binds only where there are labels)."""

    difference: float = 1.0
    agreement: float = 0.0
    accuracy_drop: float = 1.0


TOLERANCES = {
    "float32": Tolerance(difference=1e-4),
    "float16": Tolerance(difference=1e-2),
    "int8": Tolerance(agreement=0.9, accuracy_drop=0.02),
}


class Export(NamedTuple):
    """An export that was accepted, as its own runtime ran it on the sample.

    Attributes:
        path: where it stands.
        form: "saved_model", "litert", "litert_float16", "litert_int8" or "onnx".
        bytes: its size.
        numbers: how many numbers are in it, as `kd_keras.export.runtimes.weights` counts them.
        difference: the largest difference of a probability from its source.
        agreement: the share of images on whose class both agree.
        accuracy: the share that it classifies rightly, or `None` without labels.
        source_accuracy: the same of its source.
        milliseconds: the median time of one image alone.
        p95: its 95th percentile.
    """

    path: Path
    form: str
    bytes: int
    numbers: int
    difference: float
    agreement: float
    accuracy: float | None
    source_accuracy: float | None
    milliseconds: float
    p95: float


class Source:
    """A student with all that its exports share.

    Args:
        student: any built Keras model of one image input.
        image_shape, normalise, sample, labels, class_names: as `kd_keras.export.formats.saved_model` takes them.

    Raises:
        ValueError: where these do not fit each other.
    """

    def __init__(
        self,
        student: keras.Model,
        image_shape: tuple[int, int, int],
        normalise: Callable[[Tensor], Tensor],
        sample: np.ndarray,
        labels: np.ndarray | None,
        class_names: Sequence[str] | None,
    ):
        self.student = student
        self.image_shape, self.normalise = tuple(image_shape), normalise
        self.sample, self.labels = np.asarray(sample), None if labels is None else np.asarray(labels)
        self.class_names = None if class_names is None else list(class_names)
        self._tapped = Tapped(self.student, ["logits"], output=False)
        check_images("sample", self.sample, self.image_shape)
        if labels is not None and self.labels.shape != (len(self.sample),):
            raise ValueError(explain_mismatch(f"labels ({len(self.sample)},), one an image", f"{self.labels.shape}"))
        classes = self._tapped.specs["logits"].shape[-1]
        if class_names is not None and len(class_names) != classes:
            raise ValueError(explain_mismatch(f"{classes} class names", f"{len(class_names)}: {', '.join(class_names)[:200]}"))

    def serve(self, images: Tensor) -> dict[str, Tensor]:
        """From images in 0..255 to what every form gives."""
        _, taps = self._tapped(self.normalise(tf.cast(images, tf.float32) / 255.0), training=False)
        logits = tf.cast(taps["logits"], tf.float32)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def _serve_names(self, images: Tensor) -> dict[str, Tensor]:
        answer = self.serve(images)
        return {**answer, "class": tf.gather(tf.constant(self.class_names), tf.argmax(answer["logits"], -1))}

    def archive(self, directory: Path, dtype: tf.DType, named: bool = False) -> None:
        """Writes a SavedModel of images of a type."""
        # Not by Keras's ExportArchive, which writes every weight twice.
        images = tf.TensorSpec((None, *self.image_shape), dtype, name="images")
        module = tf.Module()
        module.weights = [variable.value for variable in self.student.variables]
        module.serve = tf.function(self._serve_names if named else self.serve, input_signature=[images])
        signatures = {"serving_default": module.serve}
        if named:
            names = list(self.class_names)
            give = tf.function(lambda: {"class_names": tf.constant(names)}, input_signature=[])
            signatures["class_names"] = give
        tf.saved_model.save(module, str(directory), signatures)

    def checked(self, form: str, beside: Path, path: Path, tolerance: Tolerance | float) -> Export:
        """Compares what was written with its source, and brings it to its place.

        Raises:
            ValueError: where its runtime does not load it, it differs too much, or it holds more than the student.
        """
        limits = tolerance if isinstance(tolerance, Tolerance) else Tolerance(tolerance)
        numbers = self._count(form, beside)
        try:
            run = load(beside)
            got = _in_batches(run, self.sample)
        except Exception as error:  # of many kinds: each runtime has its own
            came = f"{type(error).__name__}: {str(error)[:500]}"
            raise ValueError(explain_mismatch(f"{form} of {self.student.name!r} that its runtime loads", came)) from error
        want = _in_batches(lambda images: self.serve(images)["probabilities"].numpy(), self.sample)
        classes, own = got.argmax(-1), want.argmax(-1)
        found = Tolerance(float(np.abs(got - want).max()), float((classes == own).mean()), 0.0)
        right = [None, None]
        if self.labels is not None:
            right = [float((each == self.labels).mean()) for each in (classes, own)]
            found = found._replace(accuracy_drop=right[1] - right[0])
        _within(limits, found, form)
        times = latency(run, self.sample)
        done = Export(path, form, size(beside), numbers, *found[:2], *right, *times)
        if path.is_dir():
            shutil.rmtree(path)
        beside.replace(path)
        return done

    def _count(self, form: str, beside: Path) -> int:
        """How many numbers an export holds: a SavedModel exactly the student's, the others no more than those.

        A folded BatchNorm gives its kernel a bias, and LiteRT gives one to every kernel.
        """
        shapes = [tuple(variable.shape) for variable in self.student.variables]
        own, held = sum(map(math.prod, shapes)), list(weights(beside))
        numbers, biases = sum(map(math.prod, held)), sum(max(shape[-2:]) for shape in shapes if len(shape) > 1)
        if not (numbers == own if form == "saved_model" else numbers <= own + biases):
            foreign = sorted({shape for shape in held if _bare(shape) not in set(map(_bare, shapes))}, key=math.prod)
            came = f"{numbers:,}, among them of the shapes {foreign[-5:]}"
            raise ValueError(explain_mismatch(f"{form} of {self.student.name!r} alone, {own:,} numbers", came))
        return numbers


def check_images(name: str, images: np.ndarray, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError for anything but some `(N, H, W, C)` uint8 images."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != tuple(image_shape) or not len(images):
        needed = f"{name}= uint8 images (N, {', '.join(map(str, image_shape))})"
        raise ValueError(explain_mismatch(needed, f"{images.dtype} {images.shape}"))


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as it is in any order of the axes, and without those of one."""
    return tuple(sorted(size for size in shape if size != 1))


def _in_batches(run: Run, images: np.ndarray, count: int = 100) -> np.ndarray:
    return np.concatenate([run(images[start : start + count]) for start in range(0, len(images), count)])


def _within(limits: Tolerance, found: Tolerance, form: str) -> None:
    near = found.difference <= limits.difference and found.accuracy_drop <= limits.accuracy_drop
    if not (near and found.agreement >= limits.agreement):  # so written that NaN fails
        needed = f"{form} within {limits} of its source"
        raise ValueError(explain_mismatch(needed, f"{found}", "see what differs, or say what is accepted with tolerance="))
