"""Splits of a dataset by identity: what a network is tested on are people whom it has never seen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import tensorflow as tf

from kd_keras.data.base import CLASS, Source
from kd_keras.errors import check_integers, explain_mismatch


def split_identities(source: Source, held_out: int | Collection[int]) -> tuple[Source, Source]:
    """Splits a source into the examples of some identities, for training, and those of all others, for testing.

    Each part numbers its identities and its examples from 0, in the earlier order. Identities without an example are
    left out. All labels are read once.

    Args:
        source: examples with one label each; a TFDS dataset whose splits share identities is opened as `"train+test"`.
        held_out: the numbers of the identities for testing, or how many: the last ones by number.

    Returns:
        The source for training and the source for testing.

    Raises:
        ValueError: if the source has no such labels, an identity does not exist, or a part would be empty.

    >>> examples = tf.data.Dataset.range(6).map(
    ...     lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "label": i % 3, "index": i})
    >>> people = Source(examples, name="people", size=6, classes=3, image_shape=(4, 4, 1))
    >>> train, test = split_identities(people, held_out=1)
    >>> train.classes, train.size, test.classes, test.size
    (2, 4, 1, 2)
    """
    labels = read_labels(source)
    existing = sorted({*labels.tolist()})
    if isinstance(held_out, int):
        if not 0 < held_out < len(existing):
            expected = f"held_out= from 1 to {len(existing) - 1} of the {len(existing)} identities of {source.name!r}"
            raise ValueError(explain_mismatch(expected, str(held_out)))
        tested = existing[-held_out:]
    else:
        tested = sorted(set(check_integers("split_identities", "held_out", list(held_out))))
    unknown = [number for number in tested if number not in existing]
    if unknown or not 0 < len(tested) < len(existing):
        expected = f"some but not all identities with images in {source.name!r}, {existing[0]} to {existing[-1]}"
        raise ValueError(explain_mismatch(expected, str(unknown or tested)))
    trained = [number for number in existing if number not in set(tested)]
    return _select(source, labels, trained), _select(source, labels, tested)


def select_identities(source: Source, chosen: slice) -> Source:
    """Selects some of the identities that have examples; identities and examples are renumbered in the same order.

    Args:
        source: examples with one label each, which are read once.
        chosen: which of the identities with examples, in the order of their numbers.

    Raises:
        ValueError: if the source has no such labels, or no identity is chosen.

    >>> examples = tf.data.Dataset.range(6).map(
    ...     lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "label": 2 * (i % 3), "index": i})
    >>> people = Source(examples, name="people", size=6, classes=5, image_shape=(4, 4, 1))
    >>> [int(example["label"]) for example in select_identities(people, slice(1, None)).examples]
    [0, 1, 0, 1]
    """
    labels = read_labels(source)
    existing = sorted({*labels.tolist()})
    if not existing[chosen]:
        received = f"those from {chosen.start} to {chosen.stop}"
        raise ValueError(explain_mismatch(f"some of the {len(existing)} identities of {source.name!r}", received))
    return _select(source, labels, existing[chosen])


def read_labels(source: Source) -> np.ndarray:
    """All labels `(N,)` int64 of a source, in reading order.

    Raises:
        ValueError: if the examples do not have one label each.

    >>> examples = tf.data.Dataset.range(3).map(
    ...     lambda i: {"image": tf.zeros((4, 4, 1), tf.uint8), "label": i % 2, "index": i})
    >>> read_labels(Source(examples, name="people", size=3, classes=2)).tolist()
    [0, 1, 0]
    """
    if source.label_kind != CLASS:
        received = f"labels that are {source.label_kind}" if source.has_labels else "no labels"
        advice = "sort the images into one folder for each identity"
        raise ValueError(explain_mismatch(f"one identity for each image of {source.name!r}", received, advice))
    labels = source.examples.map(lambda example: example["label"])
    return np.fromiter(labels.as_numpy_iterator(), "int64")


def _select(source: Source, labels: np.ndarray, identities: list[int]) -> Source:
    """The examples of some identities, which are renumbered in this order."""
    numbers = np.full(int(labels.max()) + 1, -1, "int64")
    numbers[identities] = np.arange(len(identities))
    table = tf.constant(numbers)
    chosen = source.examples.filter(lambda example: tf.gather(table, example["label"]) >= 0).enumerate()
    examples = chosen.map(
        lambda number, example: {**example, "label": tf.gather(table, example["label"]), "index": number}
    )
    names = source.class_names
    return replace(
        source,
        examples=examples,
        size=int((numbers[labels] >= 0).sum()),
        classes=len(identities),
        class_names=None if names is None else tuple(names[number] for number in identities),
        version=f"{source.version} identities {identities}",
        files=1,
        read_range=None,
        ranges=(),
    )
