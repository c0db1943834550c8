"""How much worse is a model on spoilt images, and how does that compare with its teacher?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from kd_keras.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from kd_keras.errors import explain_mismatch
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
    """Yields a model's errors on images as `kd_keras.data.corruptions` spoils them; everything in one pass.

    * `error_<corruption>` `(5,)`, the top-1 error in [0, 1] at severities 1 to 5;
    * `corruption_error`, the mean of all of them;
    * `mce`, the mean over corruptions of sum_s E_s / sum_s E_s of the teacher (Hendrycks and Dietterich 2019,
      1903.12261, section 4, without the factor of 100); 1 for the teacher itself. Corruptions under which the teacher
      never errs have no such ratio and are left out; NaN where it never errs at all.

    Args:
        model: a `Teacher` with its preprocessing, or a Keras model that reads images in 0..1.
        images: `(N, H, W, C)` uint8, of one or three channels.
        labels: `(N,)` integers.
        teacher: what this yielded for the teacher, on the same images; without it the model is its own.
        corruptions: which of them.
        batch_size: images of one forward pass.

    Raises:
        ValueError: for images that cannot be spoilt, another number of labels, or a teacher without these errors.

    >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    >>> images = np.zeros((3, 4, 4, 1), "uint8")
    >>> found = dict(robustness(model, images, np.zeros(3, int), corruptions=["contrast"]))  # black, whatever is done
    >>> found["error_contrast"].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    names = list(corruptions)
    if len(labels) != len(images):
        raise ValueError(explain_mismatch(f"a label for each of {len(images)} images", f"{len(labels)}"))
    missing = [f"error_{name}" for name in names if teacher is not None and f"error_{name}" not in teacher]
    if missing:
        raise ValueError(explain_mismatch("the teacher's errors under the same corruptions", f"none of {', '.join(missing)}"))

    def batches() -> Iterator[np.ndarray]:
        for name in names:
            for severity in SEVERITIES:
                spoilt = corrupt(images, name, severity)
                yield from (spoilt[first : first + batch_size] for first in range(0, len(spoilt), batch_size))

    spec = tf.TensorSpec((None, *images.shape[1:]), tf.uint8)
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    found = predict(model, data.map(lambda batch: tf.cast(batch, tf.float32) / 255).prefetch(1))
    errors = (found.chosen.reshape(len(names), len(SEVERITIES), -1) != labels).mean(-1)
    for name, error in zip(names, errors):
        yield f"error_{name}", error
    yield "corruption_error", float(errors.mean())
    base = errors.sum(-1) if teacher is None else np.array([np.sum(teacher[f"error_{name}"]) for name in names])
    ratios = errors.sum(-1)[base > 0] / base[base > 0]
    yield "mce", float(ratios.mean()) if len(ratios) else float("nan")
