"""How much worse is a model on corrupted images, and how does that compare with its teacher?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from kd_keras.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from kd_keras.evaluation.base import predict
from kd_keras.teacher import Teacher


def robustness(
    model: keras.Model | Teacher,
    images: np.ndarray,
    labels: np.ndarray,
    teacher: Mapping[str, np.ndarray] | None = None,
    corruptions: Iterable[str] = tuple(CORRUPTIONS),
    batch_size: int = 128,
) -> Iterator[tuple[str, float | np.ndarray]]:
    """Yields a model's errors on images that `kd_keras.data.corruptions` corrupts.

    * `error_<corruption>` `(5,)`, the top-1 error in [0, 1] at severities 1 to 5;
    * `corruption_error`, the mean of all of them;
    * `mce`, the mean over corruptions of sum_s E_s / sum_s E_s(teacher) (Hendrycks and Dietterich 2019, 1903.12261,
      section 4, without the factor of 100); 1 for the teacher itself. Corruptions for which the teacher makes no error
      have no such ratio and are left out; NaN if it never makes one.

    Args:
        model: a Keras model, or a `Teacher`, that reads pixel values from 0 to 255.
        images: `(N, H, W, C)` uint8, with one or three channels.
        labels: `(N,)` integers.
        teacher: the findings of this question for the teacher, on the same images; by default the model is compared
            with itself.
        corruptions: their names, all by default.
        batch_size: images per forward pass, 128 by default.

    Raises:
        ValueError: if the images cannot be corrupted, the number of labels differs, or the teacher's findings lack an
            error.

    >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    >>> black = np.zeros((3, 4, 4, 1), "uint8")  # less contrast does not change black images
    >>> dict(robustness(model, black, np.zeros(3, int), corruptions=["contrast"]))["error_contrast"].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    names = list(corruptions)
    if len(labels) != len(images):
        raise ValueError(
            f"Robustness needs one label for each of {len(images)} images, but received {len(labels)} labels."
        )
    missing = [f"error_{name}" for name in names if teacher is not None and f"error_{name}" not in teacher]
    if missing:
        raise ValueError(
            "Robustness compares with the teacher's errors under the same corruptions, but its findings have no"
            f" {', '.join(missing)}."
        )
    for name in names:
        corrupt(images[:1], name, SEVERITIES[0])  # refuses images and names here: tf.data would raise its own error

    def corrupted_batches() -> Iterator[np.ndarray]:
        for name in names:
            for severity in SEVERITIES:
                corrupted = corrupt(images, name, severity)
                yield from (corrupted[start : start + batch_size] for start in range(0, len(corrupted), batch_size))

    spec = tf.TensorSpec((None, *images.shape[1:]), tf.uint8)
    data = tf.data.Dataset.from_generator(corrupted_batches, output_signature=spec)
    predictions = predict(model, data.map(lambda batch: tf.cast(batch, tf.float32)).prefetch(1))
    errors = (predictions.classes.reshape(len(names), len(SEVERITIES), -1) != labels).mean(-1)
    for name, error in zip(names, errors, strict=True):
        yield f"error_{name}", error
    yield "corruption_error", float(errors.mean())
    base = errors.sum(-1) if teacher is None else np.array([np.sum(teacher[f"error_{name}"]) for name in names])
    ratios = errors.sum(-1)[base > 0] / base[base > 0]
    yield "mce", float(ratios.mean()) if len(ratios) else float("nan")
