"""One pass of a model over a dataset, which every question shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor, as_batch
from kd_keras.teacher import Teacher


class Answers(NamedTuple):
    """A model's logits `(N, K)` float32 over N examples, and their labels `(N,)` int64 or `None`."""

    logits: np.ndarray
    labels: np.ndarray | None


def answers(
    model: keras.Model | Teacher, data: tf.data.Dataset, preprocess: Callable[[Tensor], Tensor] | None = None
) -> Answers:
    """Runs a model over `(x, y)` or `x` batches in inference form.

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
    run = tf.function(lambda inputs: tapped(inputs), input_signature=[as_batch(data.element_spec).inputs])
    logits, labels = [], []
    for each in data:
        batch = as_batch(each)
        logits.append(keras.ops.convert_to_numpy(run(batch.inputs)["logits"]).astype("float32"))
        if batch.label is not None:
            label = np.asarray(batch.label)
            labels.append(label.argmax(-1) if label.ndim == 2 and label.shape[-1] > 1 else label.reshape(-1))
    return Answers(np.concatenate(logits), np.concatenate(labels).astype("int64") if labels else None)
