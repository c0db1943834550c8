"""The predictions of a model for a dataset, computed once and shared by all questions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import TapSpec, Tensor, as_batch
from kd_keras.distribute.slices import map_over_replicas
from kd_keras.errors import explain_mismatch
from kd_keras.networks.heads import logits_of, recognize_probabilities
from kd_keras.teacher import Teacher, prepare_images

LOGGER = logging.getLogger("kd_keras")


class Predictions(NamedTuple):
    """A model's logits `(N, K)` float32 for N examples, and their labels `(N,)` int64 or `None`.

    The softmax of the logits are the model's probabilities, whatever its last layer is (`class_logits`).
    """

    logits: np.ndarray
    labels: np.ndarray | None

    @property
    def classes(self) -> np.ndarray:
        """`(N,)` int64: the predicted classes, those of the largest logits; the first one if several are equal."""
        return self.logits.argmax(-1)

    @property
    def correct(self) -> np.ndarray:
        """`(N,)` bool: whether the predicted class is the label.

        Raises:
            ValueError: if there are no labels, or if one is not a class of the logits.
        """
        if self.labels is None:
            raise ValueError("Labels are needed to count correct predictions, but received none.")
        classes = self.logits.shape[-1]
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(
                f"The model has the classes 0 to {classes - 1}, but the labels range from {self.labels.min()} to"
                f" {self.labels.max()}."
            )
        return self.classes == self.labels


def predict(
    model: keras.Model | Teacher, data: tf.data.Dataset, preprocess: Callable[[Tensor], Tensor] | None = None
) -> Predictions:
    """Runs a model in inference mode on batches; the replicas of the current strategy divide each batch.

    Args:
        model: any built Keras model, or a `Teacher` (several networks give one combined prediction).
        data: batches `(x, y)` or `x`, images as pixel values from 0 to 255; labels are integers `(B,)` or one-hot
            `(B, K)`.
        preprocess: a function from the images of the data to those that a Keras model reads, as `Teacher` takes it;
            by default the images are not changed.

    Raises:
        ValueError: if the model has no logits, or logits that are NaN or infinite.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> predict(model, tf.data.Dataset.from_tensors((tf.ones((2, 4)), tf.constant([0, 1])))).logits.shape
    (2, 3)
    """
    teacher = model if isinstance(model, Teacher) else Teacher(model, preprocess=preprocess)
    tapped = teacher.tapped(["logits"])
    spec = as_batch(data.element_spec).inputs
    run = tf.function(map_over_replicas(lambda inputs: tapped(inputs)["logits"]), input_signature=[spec])
    logits, labels = [], []
    for element in data:
        batch = as_batch(element)
        logits.append(keras.ops.convert_to_numpy(run(batch.inputs)).astype("float32"))
        if batch.label is not None:
            label = np.asarray(batch.label)
            labels.append(label.argmax(-1) if label.ndim == 2 and label.shape[-1] > 1 else label.reshape(-1))
    values = np.concatenate(logits)
    check_finite(values, " and ".join(repr(network.name) for network in teacher.networks))
    predicted = class_logits(values, tapped.specs["logits"])
    return Predictions(predicted, np.concatenate(labels).astype("int64") if labels else None)


def check_finite(values: np.ndarray | bool, model: str) -> None:
    """Checks that the outputs of a network are finite, because NaN would silently become a wrong prediction.

    Args:
        values: of any shape, or whether they are finite.
        model: the network in the words of a message.

    Raises:
        ValueError: if one is NaN or infinite.
    """
    if not np.all(values if isinstance(values, bool) else np.isfinite(values)):
        raise ValueError(
            explain_mismatch(f"finite outputs of {model}", "NaN or infinity", "check its weights and the images")
        )


def class_logits(values: np.ndarray, spec: TapSpec, hidden: str | None = None) -> np.ndarray:
    """The logits `(..., K)` of one distribution over the classes, whose softmax are the model's probabilities.

    Args:
        values: `(..., K)` as the model's tap "logits" gives them, or `(..., 1)` of a single unit z, which become
            (0, z). The probabilities of several sigmoids are divided by their sum.
        spec: of that tap.
        hidden: what `find_hidden_head` returns for other values of the tap; by default it looks at these.

    >>> class_logits(np.array([[3.0]]), TapSpec("dense", (None, 1), "sigmoid")).tolist()
    [[0.0, 3.0]]
    """
    hidden = find_hidden_head(values, spec) if hidden is None else hidden
    logits = logits_of(values, hidden) if hidden else values
    if logits.shape[-1] == 1:
        return np.concatenate([np.zeros_like(logits), logits], axis=-1)
    return -np.logaddexp(0, -logits) if "sigmoid" in (spec.activation, hidden) else logits  # log sigmoid(z)


def find_hidden_head(values: np.ndarray, spec: TapSpec) -> str:
    """The activation that a network hides in a layer of its own, recognized by its values: "softmax", "sigmoid" or "".

    Logs a warning if there is one, and if each of several classes has a sigmoid.

    Args:
        values: `(..., K)` as the model's tap "logits" gives them.
        spec: of that tap.
    """
    hidden = "" if spec.activation else recognize_probabilities(values)
    if hidden:
        LOGGER.warning("%r returns the probabilities of a %s; its logits are computed from them.", spec.layer, hidden)
    if values.shape[-1] > 1 and "sigmoid" in (spec.activation, hidden):
        LOGGER.warning("%r has a sigmoid for each class; its probabilities are divided by their sum.", spec.layer)
    return hidden


def single_network(model: keras.Model | Teacher) -> tuple[Callable[[Tensor], Tensor], keras.Model]:
    """The function from uint8 images to the inputs of the only network of a model, and that network.

    Raises:
        ValueError: if a teacher consists of several networks.
    """
    teacher = model if isinstance(model, Teacher) else Teacher(model)
    if len(teacher.networks) > 1:
        raise ValueError(
            "Expected a single network, whose layers can be examined, but received a teacher of"
            f" {len(teacher.networks)} networks."
        )
    network, preprocess = teacher.networks[0], teacher.preprocess[0]
    return lambda images: prepare_images(network, preprocess, tf.cast(images, tf.float32)), network


def check_same_examples(student: Predictions, teacher: Predictions) -> None:
    """Checks that two models predicted the classes of the same examples.

    Raises:
        ValueError: if the numbers of examples or classes differ, or the labels.
    """
    if student.logits.shape != teacher.logits.shape:
        raise ValueError(
            "Two models are compared on logits (N, K) for the same examples and classes, but the student's have shape"
            f" {student.logits.shape} and the teacher's {teacher.logits.shape}."
        )
    if student.labels is not None and teacher.labels is not None and (student.labels != teacher.labels).any():
        count = int((student.labels != teacher.labels).sum())
        raise ValueError(
            "Two models are compared on the same examples in the same order, but their labels differ for"
            f" {count} of {len(student.labels)} examples."
        )


def halves(model: Predictions) -> tuple[Predictions, Predictions]:
    """The even-numbered and the odd-numbered examples: two halves of every class, even if the data are sorted by class.

    >>> [half.labels.tolist() for half in halves(Predictions(np.zeros((3, 2)), np.array([0, 1, 1])))]
    [[0, 1], [1]]
    """
    even, odd = (
        Predictions(model.logits[start::2], None if model.labels is None else model.labels[start::2])
        for start in (0, 1)
    )
    return even, odd


def mean_by_class(values: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """`(K,)` float64: the mean of `values` `(N,)` over the examples of each class, NaN for a class without examples.

    >>> mean_by_class(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 2]), 3).tolist()
    [0.5, nan, 1.0]
    """
    sums = np.bincount(classes, weights=values, minlength=count)
    numbers = np.bincount(classes, minlength=count)
    return np.divide(sums, numbers, out=np.full(count, np.nan), where=numbers > 0)
