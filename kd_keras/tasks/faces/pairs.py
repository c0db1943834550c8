"""The pairs on which faces are verified: all pairs of test images, of many images a selection, or those of a file."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.data import Pairs, Source, all_pairs, read_labels, read_pairs
from kd_keras.errors import explain_mismatch
from kd_keras.tasks.faces.splits import parse_split

IMAGES = 1000  # from which all pairs are made; of more images a part is selected
FEWEST = 10  # identities that stay if there are as many, however many images one of them has


def choose_images(labels: np.ndarray, most: int = IMAGES) -> np.ndarray:
    """The numbers of the images from which all pairs are made, in their order; all if there are no more than `most`.

    All images of an evenly spread part of the identities are selected, because every second image of identities with
    two would have no genuine pair. Identities with several images come first, because the others have no genuine pair.
    An identity with very many images keeps evenly spread ones.

    Args:
        labels: `(N,)`, the identity of each image.
        most: the largest number of images that are selected.

    >>> choose_images(np.array([0, 0, 1, 2, 2, 3, 3, 4]), most=5).tolist()
    [0, 1, 2, 3, 4]
    """
    labels = np.asarray(labels)
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    identities = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    limit = max(2, most // min(len(identities), FEWEST))
    identities = [_spread(images, limit) for images in identities]
    several, single = ([images for images in identities if (len(images) > 1) == wanted] for wanted in (True, False))
    chosen = _spread_within(several, most)
    chosen += _spread_within(single, most - sum(map(len, chosen)))
    return np.sort(np.concatenate(chosen))


def _spread(items: Any, count: int) -> Any:
    """At most `count` evenly spread entries of an array or a list."""
    if len(items) <= count:
        return items
    positions = np.arange(count) * len(items) // count
    return items[positions] if isinstance(items, np.ndarray) else [items[position] for position in positions]


def _spread_within(identities: list[np.ndarray], most: int) -> list[np.ndarray]:
    """The largest number of evenly spread identities that have at most `most` images together."""
    for count in range(min(len(identities), most), 0, -1):
        chosen = _spread(identities, count)
        if sum(map(len, chosen)) <= most:
            return chosen
    return []


def take_identities(source: Source, most: int) -> Source:
    """The images of a source that `choose_images` selects; their labels are read only if there are more than `most`.

    Raises:
        ValueError: if the source has no such labels.

    >>> examples = tf.data.Dataset.range(6).map(
    ...     lambda i: {"image": tf.zeros((2, 2, 1), tf.uint8), "label": i // 2, "index": i})
    >>> images = take_identities(Source(examples, name="black", size=6, classes=3, image_shape=(2, 2, 1)), 4)
    >>> [int(example["label"]) for example in images.examples]
    [0, 0, 1, 1]
    """
    return source if source.size <= most else _take(source, choose_images(read_labels(source), most))


def check_all_pairs(source: Source) -> None:
    """Checks that test images have enough genuine and impostor pairs; all labels are read once.

    Raises:
        ValueError: if they have not.
    """
    labels = read_labels(source)
    try:
        all_pairs(labels[choose_images(labels)])
    except ValueError as error:
        raise ValueError(f"The test images {source.name!r} cannot be verified. {error}") from error


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
    first, second = (np.searchsorted(used, numbers) for numbers in (pairs.first, pairs.second))
    return _take(source, used), pairs._replace(first=first, second=second)


def _take(source: Source, numbers: np.ndarray) -> Source:
    """The examples with these numbers, in the earlier order."""
    is_chosen = tf.constant(np.isin(np.arange(source.size), numbers))
    chosen = source.examples.enumerate().filter(lambda number, _: tf.gather(is_chosen, number))
    examples = chosen.map(lambda _, example: example)
    return replace(source, examples=examples, size=len(numbers), files=1, read_range=None, ranges=())
