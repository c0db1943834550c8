"""The detections of a network for a dataset, computed once and shared by all questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor, as_batch
from kd_keras.detection.boxes import NO_OBJECT
from kd_keras.detection.decoding import Detections
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import check_finite
from kd_keras.teacher import prepare_images


class DetectionNetwork(Protocol):
    """A network that finds objects, such as those that `models.build("detector/...")` builds."""

    input_shape: Any

    def __call__(self, images: Tensor, training: bool = False) -> Any:
        """The outputs of its heads."""

    def detect(self, images: Tensor, **options: Any) -> Detections:
        """The objects in images, in pixels of its input."""

    def decode(self, outputs: Any, **options: Any) -> Detections:
        """The objects that its outputs describe, in pixels of its input."""


class BoxPredictions(NamedTuple):
    """Detections in n images, and the labels of these images.

    Attributes:
        detections: NumPy arrays `(n, D, ...)`, "xyxy" in pixels of images of `size`.
        labels: "boxes" `(n, M, 4)`, "rel_yxyx", and "classes" `(n, M)`, -1 for rows without an object; or `None`.
        size: `(H, W)`.
        classes: K.
    """

    detections: Detections
    labels: Mapping[str, np.ndarray] | None
    size: tuple[int, int]
    classes: int

    def as_labels(self, threshold: float) -> dict[str, np.ndarray]:
        """The detections of a score of at least `threshold` as labels of a dataset.

        >>> boxes, one = np.array([[[0.0, 0.0, 50.0, 100.0]]]), np.array([1])
        >>> one_box = BoxPredictions(Detections(boxes, np.array([[0.9]]), np.array([[1]]), one), None, (100, 100), 2)
        >>> one_box.as_labels(0.5)["boxes"].tolist(), one_box.as_labels(0.95)["classes"].tolist()
        ([[[0.0, 0.0, 1.0, 0.5]]], [[-1]])
        """
        height, width = self.size
        boxes = np.asarray(self.detections.boxes)[..., [1, 0, 3, 2]] / np.array([height, width, height, width])
        stays = np.asarray(self.detections.scores) >= threshold
        return {
            "boxes": np.where(stays[..., None], boxes, 0.0),
            "classes": np.where(stays, self.detections.classes, NO_OBJECT),
        }


def detect_finite(network: DetectionNetwork, images: Tensor, **options: Any) -> tuple[Detections, Tensor]:
    """The objects in images of a detector's input size, and whether all its outputs are finite, `()` bool.

    Scores that are NaN would be no detections, as if there were no objects.
    """
    outputs = network(images, training=False)
    finite = [tf.reduce_all(tf.math.is_finite(tf.cast(value, tf.float32))) for value in tf.nest.flatten(outputs)]
    return network.decode(outputs, **options), tf.reduce_all(finite)


def detection_function(
    network: DetectionNetwork,
    data: tf.data.Dataset,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> Callable[[Tensor], tuple[Detections, Tensor]]:
    """A compiled function from images to what `detect_finite` returns.

    Arguments as for `predict_boxes`.
    """

    def detect(images: Tensor) -> tuple[Detections, Tensor]:
        return detect_finite(network, prepare_images(network, preprocess, images), **options)

    return tf.function(detect, input_signature=[as_batch(data.element_spec).inputs])


def detect_all(
    detect: Callable[[Tensor], tuple[Detections, Tensor]], data: tf.data.Dataset
) -> tuple[Detections, dict[str, np.ndarray] | None, bool]:
    """The objects in all images as arrays, the "boxes" and "classes" of the labels, and whether all outputs are finite.

    Args:
        detect: as `detection_function` makes it.
        data: as for `predict_boxes`. Without labels the second value is `None`.
    """
    rows, labels, is_finite = [], [], True
    for element in data:
        batch = as_batch(element)
        stays = slice(None) if batch.weight is None else np.asarray(batch.weight) > 0
        detections, finite = detect(batch.inputs)
        rows.append([np.asarray(value)[stays] for value in detections])
        is_finite &= bool(finite)
        if batch.label is not None:
            labels.append({key: np.asarray(batch.label[key])[stays] for key in ("boxes", "classes")})
    joined = {key: np.concatenate([label[key] for label in labels]) for key in labels[0]} if labels else None
    return Detections(*(np.concatenate(column) for column in zip(*rows, strict=True))), joined, is_finite


def predict_boxes(
    network: DetectionNetwork,
    data: tf.data.Dataset,
    *,
    classes: int,
    size: tuple[int, int] | None = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> BoxPredictions:
    """Finds the objects in all images of a dataset.

    The network resizes images to its input, so networks with inputs of different sizes can be given the same images,
    best in their own size.

    Args:
        network: a detector.
        data: batches `(x, y)`, `(x, y, weight)` or `x`: images as pixel values from 0 to 255, labels as
            `data.load_boxes` gives them. Rows of weight 0 are padding and are left out.
        classes: K, the number of classes of the data.
        size: `(H, W)` of the images whose pixels the detections are in, which decides which objects are small; by
            default that of the data.
        preprocess: a function from the images of the data to those that the network reads.
        **options: of `kd_keras.detection.decoding.detect`, such as `score_threshold=`.

    Returns:
        Detections and labels of all images, in the order of the data.

    Raises:
        ValueError: if the labels are not boxes, the images differ in size and there is no `size`, a detection has a
            class that the data do not have, or outputs are not finite.

    >>> from kd_keras import models
    >>> network = models.build("detector/resnet8", (16, 16, 3), 2, pyramid=(2,), width=8)
    >>> data = tf.data.Dataset.from_tensors(np.zeros((2, 16, 16, 3), "float32"))
    >>> predict_boxes(network, data, classes=2, detections=3).detections.boxes.shape
    (2, 3, 4)
    """
    spec = as_batch(data.element_spec)
    if spec.label is not None and not (isinstance(spec.label, Mapping) and {"boxes", "classes"} <= set(spec.label)):
        raise ValueError(
            explain_mismatch('labels with "boxes" and "classes", as load_boxes gives them', str(spec.label))
        )
    shape = tuple(spec.inputs.shape[1:3])
    if size is None and None in shape:
        raise ValueError(
            explain_mismatch("images of one size, or size=(height, width)", f"images of the shape {spec.inputs.shape}")
        )
    height, width = shape if size is None else size
    detections, labels, is_finite = detect_all(detection_function(network, data, preprocess, **options), data)
    check_finite(is_finite, repr(getattr(network, "name", network)))
    if detections.classes.max(initial=0) >= classes:
        expected = f"detections of the {classes} classes of the data"
        raise ValueError(explain_mismatch(expected, f"the class {detections.classes.max()}"))
    size = (height, width)
    return BoxPredictions(_rescaled(detections, network.input_shape[1:3], size), labels, size, classes)


def _rescaled(detections: Detections, source: tuple[int, int], target: tuple[int, int]) -> Detections:
    """Detections in pixels of an image of another size."""
    height, width = target[0] / source[0], target[1] / source[1]
    scale = np.array([width, height, width, height], "float32")
    return detections._replace(boxes=detections.boxes * scale)


def check_same_images(student: BoxPredictions, teacher: BoxPredictions) -> None:
    """Checks that two networks searched the same images, with the same labels.

    Raises:
        ValueError: if the numbers of images or classes differ, the sizes, or the labels.
    """
    described = [
        f"{len(one.detections.count)} images {one.size} with {one.classes} classes" for one in (student, teacher)
    ]
    if described[0] != described[1]:
        raise ValueError(explain_mismatch(f"detections in the teacher's {described[1]}", described[0]))
    if student.labels is not None and teacher.labels is not None:
        differs = [key for key in ("boxes", "classes") if not np.array_equal(student.labels[key], teacher.labels[key])]
        if differs:
            received = f"labels whose {' and '.join(differs)} differ"
            raise ValueError(explain_mismatch("detections in the same images in the same order", received))
