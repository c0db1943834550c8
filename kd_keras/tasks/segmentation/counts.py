"""What is counted over the pixels of each image, in one pass over the data; every metric follows from the counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import IGNORED, TapSpec, Tensor, as_batch
from kd_keras.distribute.slices import map_over_replicas
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import check_finite, class_logits, find_hidden_head
from kd_keras.evaluation.calibration import BINS
from kd_keras.primitives import resize_bilinear, softened_kl
from kd_keras.tasks.segmentation.boundaries import count_boundaries
from kd_keras.teacher import Teacher


class PixelCounts(NamedTuple):
    """Counts over the valid pixels of N images with K classes.

    Attributes:
        confusion: `(N, K, K)` int64, the pixels of each class (second axis) that are predicted as each class.
        boundaries: `(N, K, 4)` int64, as `count_boundaries` gives them for an image.
        bins: `(15, 3)` float64, by the largest probability of a pixel: the sum of these, the number of correct pixels,
            and the number of pixels.
        nll: the sum of the negative log-likelihoods of the class, in nats.
        brier: the sum of sum_k (p_k - y_k)^2.
    """

    confusion: np.ndarray
    boundaries: np.ndarray
    bins: np.ndarray
    nll: float
    brier: float


class AgreementCounts(NamedTuple):
    """Counts over all pixels of N images for a student and a teacher, whatever their labels.

    Attributes:
        confusion: `(N, K, K)` int64, the pixels that the teacher predicts as each class (second axis) and the student
            as each class.
        kl: the sum of KL(teacher || student), in nats.
    """

    confusion: np.ndarray
    kl: float


def count_pixels(
    networks: Mapping[str, keras.Model | Teacher], data: tf.data.Dataset
) -> tuple[dict[str, PixelCounts], dict[str, AgreementCounts]]:
    """Counts the pixels of several networks in one pass, so that each network sees each image only once.

    The agreement needs the logits of two networks for the same image, and those of all images are too large to keep.
    Logits of another size than the masks are resized to them, bilinearly.

    Args:
        networks: by name; the first one is the teacher of the others.
        data: batches `(x, y)` as `data.evaluation` makes them, y masks `(B, H, W)` or `(B, H, W, 1)` of integers,
            `IGNORED` for pixels without a class.

    Returns:
        The counts of each network, and the agreement of all but the first with the first.

    Raises:
        ValueError: if there are no masks, a class is unknown, the numbers of classes differ, or logits are not finite.

    >>> network = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Conv2D(2, 1)])
    >>> data = tf.data.Dataset.from_tensors((tf.ones((1, 2, 2, 3)), [[[0, 1], [1, -1]]]))
    >>> counts, _ = count_pixels({"a": network}, data)
    >>> counts["a"].confusion.sum()
    np.int64(3)
    """
    taps = {name: _tap_logits(model) for name, model in networks.items()}
    predict = {name: _compile(tapped, as_batch(data.element_spec).inputs) for name, tapped in taps.items()}
    hidden: dict[str, str] = {}
    teacher, *students = networks
    counts: dict[str, list[PixelCounts]] = {name: [] for name in networks}
    agreements: dict[str, list[AgreementCounts]] = {name: [] for name in students}
    for mask, images in masks_of(data):
        reference = np.empty(0)
        for name in networks:
            logits = np.asarray(resize_bilinear(predict[name](images), mask.shape[1:3]), "float32")
            check_finite(logits, name)
            if logits.shape[-1] > 1:  # a single class needs no distribution
                spec = taps[name].specs["logits"]
                if name not in hidden:
                    hidden[name] = find_hidden_head(logits, spec)
                logits = class_logits(logits, spec, hidden[name])
            counts[name].append(_count_batch(mask, logits))
            if name == teacher:
                reference = logits
            else:
                agreements[name].append(count_agreement(logits, reference))
    return (
        {name: PixelCounts(*map(_join, zip(*batches, strict=True))) for name, batches in counts.items()},
        {name: AgreementCounts(*map(_join, zip(*batches, strict=True))) for name, batches in agreements.items()},
    )


def count_agreement(student: np.ndarray, teacher: np.ndarray) -> AgreementCounts:
    """The counts of a batch of logits `(B, H, W, K)`.

    Raises:
        ValueError: if their shapes differ.

    >>> logits = np.array([[[[1.0, 0.0], [0.0, 1.0]]]])
    >>> count_agreement(logits, logits).confusion.tolist()
    [[[1, 0], [0, 1]]]
    """
    if student.shape != teacher.shape:
        expected = f"logits {teacher.shape} of a student, as of its teacher"
        raise ValueError(explain_mismatch(expected, str(student.shape), "compare networks of the same classes"))
    predictions = student.argmax(-1), teacher.argmax(-1)
    confusion = [
        confusion_of(truth, predicted, student.shape[-1]) for predicted, truth in zip(*predictions, strict=True)
    ]
    return AgreementCounts(np.stack(confusion), float(np.sum(softened_kl(student, teacher), dtype="float64")))


def confusion_of(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix `(K, K)` int64 of an image, without the pixels whose truth is `IGNORED`.

    >>> confusion_of(np.array([[0, 1, -1]]), np.array([[0, 0, 1]]), 2).tolist()
    [[1, 0], [1, 0]]
    """
    valid = truth != IGNORED
    indices = truth[valid].astype("int64") * classes + predicted[valid]
    return np.bincount(indices, minlength=classes**2).reshape(classes, classes)


def _count_batch(mask: np.ndarray, logits: np.ndarray) -> PixelCounts:
    classes, predicted = logits.shape[-1], logits.argmax(-1)
    check_classes(mask, classes)
    pairs = list(zip(mask, predicted, strict=True))
    confusion = np.stack([confusion_of(*pair, classes) for pair in pairs])
    boundaries = np.stack([count_boundaries(*pair, classes) for pair in pairs])
    valid = mask != IGNORED
    label, z = mask[valid], logits[valid].astype("float64")
    z -= z.max(-1, keepdims=True, initial=-np.inf)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    p, of_label = np.exp(log_p), np.arange(len(label))
    confidence, correct = p.max(-1), predicted[valid] == label
    index = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    bins = np.stack([np.bincount(index, weight, BINS) for weight in (confidence, correct, np.ones(len(label)))], -1)
    nll = -log_p[of_label, label].sum()
    brier = np.square(p).sum() - 2 * p[of_label, label].sum() + len(label)
    return PixelCounts(confusion, boundaries, bins, float(nll), float(brier))


def check_classes(mask: np.ndarray, classes: int) -> None:
    """Raises a ValueError if a mask `(B, H, W)` has a class that a network of `classes` classes does not have."""
    if mask.size and not IGNORED <= mask.min() <= mask.max() < classes:
        expected = f"masks of the {classes} classes of the network, or {IGNORED} for an ignored pixel"
        raise ValueError(explain_mismatch(expected, f"values from {mask.min()} to {mask.max()}"))


def logits_of(model: keras.Model | Teacher, spec: Any) -> Callable[[Any], Tensor]:
    """A compiled function from inputs of a specification to the logits `(B, H, W, K)` of a network.

    Raises:
        ValueError: if it has other logits, or the single channel of a sigmoid.
    """
    return _compile(_tap_logits(model), spec)


def class_count(model: keras.Model) -> int:
    """The number of classes of a segmentation network.

    Raises:
        ValueError: as `logits_of`.
    """
    return _tap_logits(model).specs["logits"].shape[-1]


def _tap_logits(model: keras.Model | Teacher) -> Teacher:
    tapped = (model if isinstance(model, Teacher) else Teacher(model)).tapped(["logits"])
    check_logits(tapped.specs["logits"])
    return tapped


def _compile(tapped: Teacher, spec: Any) -> Callable[[Any], Tensor]:
    return tf.function(map_over_replicas(lambda inputs: tapped(inputs)["logits"]), input_signature=[spec])


def check_logits(spec: TapSpec) -> None:
    """Raises a ValueError if a tap "logits" has not the form (B, H, W, K), or is the single channel of a sigmoid."""
    expected = "a segmentation network with logits (B, H, W, K)"
    if len(spec.shape) != 4:
        raise ValueError(explain_mismatch(expected, f"logits of shape {spec.shape}", "build segmenter/<network>"))
    if spec.shape[-1] == 1 and spec.activation == "sigmoid":
        received = f"the single channel of a sigmoid, {spec.layer!r}, which has no second class"
        raise ValueError(explain_mismatch(expected, received, "use a channel for each of the two classes"))


def masks_of(data: tf.data.Dataset) -> Iterator[tuple[np.ndarray, Any]]:
    """Yields the masks `(B, H, W)` int64 and the inputs of each batch.

    Raises:
        ValueError: if there are no masks.
    """
    for element in data:
        batch = as_batch(element)
        mask = None if batch.label is None or isinstance(batch.label, Mapping) else np.asarray(batch.label)
        mask = mask[..., 0] if mask is not None and mask.ndim == 4 and mask.shape[-1] == 1 else mask
        if mask is None or mask.ndim != 3 or mask.dtype.kind not in "iu":
            received = "none" if mask is None else f"{mask.dtype} of shape {mask.shape}"
            raise ValueError(explain_mismatch("masks (B, H, W) of integers as labels", received, "use data.load_masks"))
        yield mask.astype("int64"), batch.inputs


def _join(parts: tuple) -> Any:
    """The counts of all batches: those of images one after the other, sums added."""
    is_by_image = isinstance(parts[0], np.ndarray) and parts[0].ndim == 3
    return np.concatenate(parts) if is_by_image else sum(parts)
