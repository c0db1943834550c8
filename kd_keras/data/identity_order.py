"""An order of examples for losses that compare images of one class: each batch has several of some classes.

Huang et al. 2022, 2206.02325 (EKD), and other losses of faces use four images of each identity.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch


class IdentityOrder:
    """Orders all examples of an epoch such that images of one identity follow each other in groups.

    The images of an identity are distributed at random over groups of at least `images`, at most 2 `images` - 1; an
    identity with fewer images is one group. The groups are in a random order, so that every example occurs once in each
    epoch. A batch of 2 `images` examples or more contains two images of one identity, if all identities have two.

    Args:
        labels: `(N,)` integers.
        images: the number of images in a group, at least 2.
        name: of the source, for error messages.

    Raises:
        ValueError: if no identity has two images.

    >>> labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    >>> labels[IdentityOrder(labels, 2, "faces")(tf.constant([0, 0], tf.int64))].tolist()
    [0, 0, 0, 1, 1, 1, 2, 2]
    """

    def __init__(self, labels: np.ndarray, images: int, name: str):
        _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if np.max(counts) < 2:
            expected = f"an identity with two images in {name!r} for images_per_identity={images}"
            raise ValueError(explain_mismatch(expected, f"{len(counts)} identities with one image each"))
        groups = np.maximum(counts // images, 1)
        self._identity = tf.constant(number, tf.int32)
        self._first_row = tf.constant(np.cumsum(counts) - counts, tf.int32)
        self._first_group = tf.constant(np.cumsum(groups) - groups, tf.int32)
        self._groups, self._count = tf.constant(groups, tf.int32), int(groups.sum())

    def __call__(self, seed: tf.Tensor) -> tf.Tensor:
        """The example numbers `(N,)` int32 of an epoch, in an order that depends only on a seed `(2,)`."""
        order = tf.random.experimental.stateless_shuffle(tf.range(len(self._identity)), seed)
        order = tf.gather(order, tf.argsort(tf.gather(self._identity, order), stable=True))
        identity = tf.gather(self._identity, order)
        row = tf.range(len(self._identity)) - tf.gather(self._first_row, identity)  # within its identity
        group = tf.gather(self._first_group, identity) + row % tf.gather(self._groups, identity)
        ranks = tf.random.experimental.stateless_shuffle(tf.range(self._count), tf.random.fold_in(seed, 1))
        return tf.gather(order, tf.argsort(tf.gather(ranks, group), stable=True))
