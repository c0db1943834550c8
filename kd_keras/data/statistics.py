"""Statistics of a dataset's pixels, to fit a network's input normalization."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from kd_keras.data.base import Source
from kd_keras.data.selection import take_evenly
from kd_keras.data.settings import check_whole
from kd_keras.networks.preprocessing import PixelStatistics

BLOCKS = 100  # of consecutive examples


def measure(source: Source, limit: int = 10000) -> PixelStatistics:
    """Measures the mean and the standard deviation of each channel over all pixels of at most `limit` examples.

    Of a TFDS dataset, which TFDS has shuffled, the first `limit` examples are measured. Of any other source they are
    spread evenly over all examples, because a folder is sorted by class: as up to 100 blocks if images have files of
    their own, so that only these are decoded.

    Both are in pixel units, 0 to 255. A constant channel gets the standard deviation 255, the range of all pixels,
    because a network divides by it.

    Raises:
        ValueError: if the limit is below 1.

    >>> examples = tf.data.Dataset.range(2).map(lambda i: {"image": tf.cast(tf.fill((4, 4, 1), 10 * i), tf.uint8),
    ...                                                    "index": i})
    >>> measure(Source(examples, name="dark", size=2, image_shape=(4, 4, 1)))
    PixelStatistics(mean=(5.0,), std=(5.0,))
    """
    check_whole(1, limit=limit)
    channels = source.examples.element_spec["image"].shape[-1]

    def add(total: tf.Tensor, example: dict) -> tf.Tensor:
        pixels = tf.cast(tf.reshape(example["image"], (-1, channels)), tf.float64)
        return total + tf.reduce_sum(tf.stack([tf.ones_like(pixels), pixels, pixels**2]), 1)

    count, total, squares = _spread(source, limit).reduce(tf.zeros((3, channels), tf.float64), add).numpy()
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # Rounding errors in the variance of a constant channel are far below this.
    return PixelStatistics(tuple(mean.tolist()), tuple(np.where(std > 1e-3, std, 255.0).tolist()))


def _spread(source: Source, limit: int) -> tf.data.Dataset:
    """At most `limit` examples that represent the source."""
    if source.read_range is None:
        return take_evenly(source, limit).examples
    if source.files < source.size or source.size <= limit:  # a file has several examples: TFDS has shuffled them
        return source.examples.take(limit)
    blocks = min(BLOCKS, limit)
    begins = [source.size * number // blocks for number in range(blocks)]
    parts = [source.read_range(begin, begin + limit // blocks) for begin in begins]
    return functools.reduce(tf.data.Dataset.concatenate, parts)
