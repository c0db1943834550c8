"""Verifies an exported model against its Keras source on sample images.

An export is accepted if its own runtime loads it, if it differs from the Keras model by no more than its tolerance, and
if it contains no more weights than the student has, so that an adapter or a teacher in it would be noticed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.export.outputs import ServedOutputs, classes_of
from kd_keras.export.paths import replace
from kd_keras.export.runtimes import CHECK, Predict, latency, load, size_in_bytes, weight_shapes
from kd_keras.export.writing import write_saved_model


class Tolerance(NamedTuple):
    """How much an export may differ from its source.

    Attributes:
        difference: the largest difference of a probability.
        agreement: the lowest fraction of images for which both predict the same class.
        accuracy_drop: the largest loss of accuracy, a fraction; it is checked only if there are labels.
    """

    difference: float = 1.0
    agreement: float = 0.0
    accuracy_drop: float = 1.0


TOLERANCES = {
    "float32": Tolerance(difference=1e-4),
    "float16": Tolerance(difference=1e-2),
    "int8": Tolerance(agreement=0.9, accuracy_drop=0.02),
}


class Export(NamedTuple):
    """An accepted export, with what its own runtime measured on the sample.

    Attributes:
        path: of the file or directory.
        format: "saved_model", "litert", "litert_float16", "litert_int8" or "onnx".
        bytes: its size.
        parameters: the number of weights in it, as `kd_keras.export.runtimes.weight_shapes` counts them.
        difference: the largest difference of a probability from the Keras model.
        agreement: the fraction of images for which both predict the same class.
        accuracy: on the sample, or `None` without labels.
        source_accuracy: that of the Keras model.
        milliseconds: the median time for a single image.
        p95: the 95th percentile of that time.
    """

    path: Path
    format: str
    bytes: int
    parameters: int
    difference: float
    agreement: float
    accuracy: float | None
    source_accuracy: float | None
    milliseconds: float
    p95: float


class Reference:
    """The student, what its exports deliver, and the images on which they are compared with `student.predict`.

    Args:
        student: any built Keras model of one image input that reads pixel values from 0 to 255.
        image_shape, sample, labels, class_names: as `kd_keras.export.saved_model` takes them.

    Raises:
        ValueError: if these do not match each other.
    """

    def __init__(
        self,
        student: keras.Model,
        image_shape: tuple[int, int, int],
        sample: np.ndarray,
        labels: np.ndarray | None,
        class_names: Sequence[str] | None,
    ):
        self.student = student
        self.image_shape = tuple(image_shape)
        self.sample, self.labels = np.asarray(sample), None if labels is None else np.asarray(labels)
        self.class_names = None if class_names is None else list(class_names)
        check_images("sample", self.sample, self.image_shape)
        self.serve = ServedOutputs(student, self.sample)
        if self.labels is not None and self.labels.shape != (len(self.sample),):
            raise ValueError(
                f"labels= must have the shape ({len(self.sample)},), one label per sample image, but received"
                f" {self.labels.shape}."
            )
        classes = max(2, self.serve.units)
        if self.labels is not None:
            lowest, highest = self.labels.min(), self.labels.max()
            if self.labels.dtype.kind not in "iu" or lowest < 0 or highest >= classes:
                raise ValueError(
                    f"labels= must be classes of {student.name!r}, whole numbers from 0 to {classes - 1}, but received"
                    f" {lowest} to {highest} of type {self.labels.dtype}."
                )
        if self.class_names is not None and len(self.class_names) != classes:
            names = ", ".join(self.class_names)[:200]
            raise ValueError(
                f"class_names= must have {classes} class names, one per class of {student.name!r}, but received"
                f" {len(self.class_names)}: {names}."
            )

    def _serve_with_names(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.serve(images)
        probabilities = outputs["probabilities"]
        classes = (
            tf.cast(probabilities[:, 0] > 0.5, tf.int64) if self.serve.units == 1 else tf.argmax(probabilities, -1)
        )
        return {**outputs, "class": tf.gather(tf.constant(self.class_names), classes)}

    def write_saved_model(
        self,
        directory: Path,
        dtype: tf.DType,
        with_names: bool = False,
        serve: Callable[[Tensor], dict[str, Tensor]] | None = None,
    ) -> None:
        """Writes a SavedModel that takes images of a dtype, and that returns class names with `with_names`.

        Args:
            directory: where it is written.
            dtype: of the images.
            with_names: whether it returns the names of the classes.
            serve: the function that it contains, by default `self.serve`.
        """
        outputs = serve or (self._serve_with_names if with_names else self.serve.__call__)
        names = self.class_names if with_names else None
        write_saved_model(outputs, self.student, directory, self.image_shape, dtype=dtype, class_names=names)

    def accept(self, name: str, staging: Path, path: Path, tolerance: Tolerance | float) -> Export:
        """Compares a written export with the student and moves it to its path.

        Raises:
            ValueError: if its runtime does not load it, it differs too much, or it contains more than the student.
        """
        limits = tolerance if isinstance(tolerance, Tolerance) else Tolerance(tolerance)
        parameters = count_parameters(self.student, name, staging)
        with explain_runtime_errors(name, self.student.name):
            predict = load(staging)
            exported = _in_batches(predict, self.sample)
        original = self.serve.predicted
        classes, original_classes = classes_of(exported), classes_of(original)
        measured = Tolerance(float(np.abs(exported - original).max()), float((classes == original_classes).mean()), 0.0)
        accuracy = source_accuracy = None
        if self.labels is not None:
            accuracy = float((classes == self.labels).mean())
            source_accuracy = float((original_classes == self.labels).mean())
            measured = measured._replace(accuracy_drop=source_accuracy - accuracy)
        check_tolerance(name, limits._asdict(), measured._asdict(), at_least=("agreement",))
        times = latency(predict, self.sample)
        size = size_in_bytes(staging)
        export = Export(path, name, size, parameters, *measured[:2], accuracy, source_accuracy, *times)
        if name == "saved_model":  # before it is in place, so that no SavedModel is without its check
            np.savez(staging / CHECK, images=self.sample, classes=original_classes)
        replace(staging, path)
        return export


@contextlib.contextmanager
def explain_runtime_errors(name: str, network: str) -> Iterator[None]:
    """Turns the errors of a format's runtime into a ValueError that names the format and the network."""
    try:
        yield
    except Exception as error:  # of many types: each runtime has its own
        raise ValueError(
            f"The runtime of {name} cannot run the export of {network!r}. It reports"
            f" {type(error).__name__}: {str(error)[:500]}"
        ) from error


def count_parameters(student: keras.Model, name: str, staging: Path, lengths: Collection[int] = ()) -> int:
    """The number of weights in an export: that of the student in a SavedModel, at most that plus biases otherwise.

    A folded BatchNorm adds a bias to its kernel, and LiteRT adds one to every kernel.

    Args:
        student: the network that was exported.
        name: of the format, "saved_model" or another.
        staging: the path of the export.
        lengths: tensors with an axis of one of these lengths are no weights, such as constants for each anchor; fewer
            weights than those of the student are then accepted.

    Raises:
        ValueError: if the export contains more, or a SavedModel fewer weights.
    """
    shapes = [tuple(variable.shape) for variable in student.variables]
    exported = [shape for shape in weight_shapes(staging) if not set(lengths) & set(shape)]
    expected, count = sum(map(math.prod, shapes)), sum(map(math.prod, exported))
    biases = sum(max(shape[-2:]) for shape in shapes if len(shape) > 1)
    is_saved_model = name == "saved_model"
    limit = expected if is_saved_model else expected + biases
    if count > limit or (is_saved_model and not lengths and count < limit):
        known = set(map(_canonical, shapes))
        foreign = sorted({shape for shape in exported if _canonical(shape) not in known}, key=math.prod)
        bound = "exactly" if is_saved_model and not lengths else "at most"
        extra = f" Shapes that the student does not have: {foreign[-5:]}." if foreign else ""
        raise ValueError(
            f"The {name} of {student.name!r} must contain {bound} {limit:,} parameters, but it contains {count:,}."
            f"{extra}"
        )
    return count


def check_images(name: str, images: np.ndarray, image_shape: tuple[int, ...]) -> None:
    """Checks that images are at least one `(N, H, W, C)` uint8 image.

    Raises:
        ValueError: if they are not.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != tuple(image_shape) or not len(images):
        raise ValueError(
            f"{name}= must be uint8 images of shape (N, {', '.join(map(str, image_shape))}), but received"
            f" {images.dtype} of shape {images.shape}."
        )


def _canonical(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of size one, in sorted order: converters reorder the axes of kernels."""
    return tuple(sorted(size for size in shape if size != 1))


def _in_batches(predict: Predict, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
    return np.concatenate([predict(images[start : start + batch_size]) for start in range(0, len(images), batch_size)])


def check_tolerance(
    name: str, limits: Mapping[str, float], measured: Mapping[str, float], at_least: Collection[str]
) -> None:
    """Checks what was measured of an export.

    Args:
        name: of the format.
        limits: by name.
        measured: by the same names.
        at_least: the names whose limit is the lowest value; that of all others is the highest one.

    Raises:
        ValueError: if a value is beyond its limit, or NaN.

    >>> check_tolerance("onnx", {"agreement": 0.9, "difference": 0.1}, {"agreement": 1, "difference": 0}, ["agreement"])
    """
    violated = [  # a comparison with NaN is false
        field
        for field, limit in limits.items()
        if not (measured[field] >= limit if field in at_least else measured[field] <= limit)
    ]
    if violated:
        bounds = {field: "at least" if field in at_least else "at most" for field in violated}
        expected = ", ".join(f"{field} {bounds[field]} {limits[field]:g}" for field in violated)
        received = ", ".join(f"{field}={measured[field]:.4g}" for field in violated)
        raise ValueError(
            f"The {name} export is rejected: compared with its source, expected {expected}, but received {received}."
            " Examine the difference, or accept it with tolerance=."
        )
