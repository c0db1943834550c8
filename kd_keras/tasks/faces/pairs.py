"""The pairs of a file, on which faces are verified instead of on all pairs of the test images."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.data import Pairs, Source, read_pairs
from kd_keras.errors import explain_mismatch
from kd_keras.tasks.faces.splits import parse_split


def read_test_pairs(file: str | os.PathLike, images: Any, split: str) -> Pairs:
    """Reads the pairs of a file in the format of LFW, as `data.read_pairs`.

    Args:
        file: the path, such as `pairs.txt`.
        images: the test images, which must be a folder, because the lines of the file name its images.
        split: of the folder.

    Raises:
        ValueError: if the images are no folder or a part of its identities, the file has fewer than two folds, or as
            `data.read_pairs`.
    """
    if not isinstance(images, (str, os.PathLike)) or not os.path.isdir(images):
        received = f"{os.fspath(images)!r}" if isinstance(images, (str, os.PathLike)) else type(images).__name__
        expected = f"a folder of images, whose files the lines of {os.fspath(file)} name"
        raise ValueError(explain_mismatch(expected, received, "leave out the pairs, or pass the folder as data"))
    if parse_split(split)[1] is not None:
        expected = f"a split with all identities, as the pairs of {os.fspath(file)} name the images"
        raise ValueError(explain_mismatch(expected, f"test_split={split!r}", "leave out the part of the identities"))
    pairs = read_pairs(file, images, split)
    if len(np.unique(pairs.fold)) < 2:
        expected = f"two or more folds in {os.fspath(file)}, because each needs a threshold from others"
        advice = "begin the file with the number of folds and of genuine pairs in each, such as '10 300'"
        raise ValueError(explain_mismatch(expected, "one", advice))
    return pairs


def select_images(source: Source, pairs: Pairs) -> tuple[Source, Pairs]:
    """The images that are in some pair, in the earlier order, and the pairs with the numbers that these have then.

    >>> examples = tf.data.Dataset.range(4).map(lambda i: {"image": tf.zeros((2, 2, 1), tf.uint8), "index": i})
    >>> pairs = Pairs(np.array([1]), np.array([3]), np.array([True]), np.array([0]))
    >>> images, pairs = select_images(Source(examples, name="black", size=4, image_shape=(2, 2, 1)), pairs)
    >>> [int(example["index"]) for example in images.examples], pairs.first.tolist(), pairs.second.tolist()
    ([1, 3], [0], [1])
    """
    used = np.unique([pairs.first, pairs.second])
    is_used = tf.constant(np.isin(np.arange(source.size), used))
    numbered = source.examples.enumerate().filter(lambda number, _: tf.gather(is_used, number))
    examples = numbered.map(lambda _, example: example)
    first, second = (np.searchsorted(used, numbers) for numbers in (pairs.first, pairs.second))
    selected = replace(source, examples=examples, size=len(used), files=1, read_range=None, ranges=())
    return selected, pairs._replace(first=first, second=second)
