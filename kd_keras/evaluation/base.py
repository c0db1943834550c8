"""One pass of a model over a dataset, which every question shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor, as_batch
from kd_keras.distribute.slices import map_over_replicas
from kd_keras.errors import explain_mismatch
from kd_keras.teacher import Teacher, prepared


class Predictions(NamedTuple):
    """A model's logits `(N, K)` float32 over N examples, and their labels `(N,)` int64 or `None`."""

    logits: np.ndarray
    labels: np.ndarray | None

    @property
    def chosen(self) -> np.ndarray:
        """`(N,)` int64: the class of the largest logit, the first where several are."""
        return self.logits.argmax(-1)

    @property
    def right(self) -> np.ndarray:
        """`(N,)` bool: whether the chosen class is the label.

        Raises:
            ValueError: where there are no labels, or one that is no class of the logits.
        """
        if self.labels is None:
            raise ValueError(explain_mismatch("labels", "none"))
        classes = self.logits.shape[-1]
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < classes:
            came = f"{self.labels.min()} to {self.labels.max()}"
            raise ValueError(explain_mismatch(f"labels of 0 to {classes - 1}, the model's classes", came))
        return self.chosen == self.labels


def predict(
    model: keras.Model | Teacher, data: tf.data.Dataset, preprocess: Callable[[Tensor], Tensor] | None = None
) -> Predictions:
    """Runs a model over `(x, y)` or `x` batches in inference form; the replicas of a strategy in scope share the rows.

    Args:
        model: any built Keras model, or a `Teacher` (several networks answer as one).
        data: batches; labels are integers `(B,)` or one-hot `(B, K)`.
        preprocess: from the data's images to the model's, as `Teacher` takes it.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> answers(model, tf.data.Dataset.from_tensors((tf.ones((2, 4)), tf.constant([0, 1])))).logits.shape
    (2, 3)
    """
    teacher = model if isinstance(model, Teacher) else Teacher(model, preprocess=preprocess)
    tapped = teacher.tapped(["logits"])
    spec = as_batch(data.element_spec).inputs
    run = tf.function(map_over_replicas(lambda inputs: tapped(inputs)["logits"]), input_signature=[spec])
    logits, labels = [], []
    for each in data:
        batch = as_batch(each)
        logits.append(keras.ops.convert_to_numpy(run(batch.inputs)).astype("float32"))
        if batch.label is not None:
            label = np.asarray(batch.label)
            labels.append(label.argmax(-1) if label.ndim == 2 and label.shape[-1] > 1 else label.reshape(-1))
    return Predictions(np.concatenate(logits), np.concatenate(labels).astype("int64") if labels else None)


def inputs_of(model: keras.Model | Teacher) -> tuple[Callable[[Tensor], Tensor], keras.Model]:
    """How raw images, uint8, become what a network reads, and the network, of a `Teacher` or of a bare Keras model.

    Raises:
        ValueError: where a teacher is several networks.
    """
    teacher = model if isinstance(model, Teacher) else Teacher(model)
    if len(teacher.networks) > 1:
        raise ValueError(explain_mismatch("one network, to look inside", f"{len(teacher.networks)}"))
    network, preprocess = teacher.networks[0], teacher.preprocess[0]
    return lambda images: prepared(network, preprocess, tf.cast(images, tf.float32) / 255), network


def check_same(student: Predictions, teacher: Predictions) -> None:
    """Checks that two models answered the same examples.

    Raises:
        ValueError: where the numbers of examples or of classes differ, or the labels.
    """
    if student.logits.shape != teacher.logits.shape:
        came = f"student {student.logits.shape}, teacher {teacher.logits.shape}"
        raise ValueError(explain_mismatch("logits (N, K) of the same examples and classes", came))
    if student.labels is not None and teacher.labels is not None and (student.labels != teacher.labels).any():
        raise ValueError(explain_mismatch("the same examples, in one order", "labels that differ"))


def halves(model: Predictions) -> tuple[Predictions, Predictions]:
    """The examples of even number and those of odd number: two halves of every class, even where data stand in its
    order.

    >>> [half.labels.tolist() for half in halves(Predictions(np.zeros((3, 2)), np.array([0, 1, 1])))]
    [[0, 1], [1]]
    """
    even, odd = (
        Predictions(model.logits[first::2], None if model.labels is None else model.labels[first::2]) for first in (0, 1)
    )
    return even, odd


def mean_by_class(values: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """`(K,)` float64: the mean of `values` `(N,)` over the examples of each class, NaN for a class without any.

    >>> mean_by_class(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 2]), 3).tolist()
    [0.5, nan, 1.0]
    """
    sums = np.bincount(classes, weights=values, minlength=count)
    numbers = np.bincount(classes, minlength=count)
    return np.divide(sums, numbers, out=np.full(count, np.nan), where=numbers > 0)
