"""A memory of feature vectors for each class, for methods that compare a batch with earlier ones."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kd_keras.contracts import Tensor
from kd_keras.primitives import l2_normalize

LARGEST = 2**30  # of random integers, which, unlike random floats, are the same with and without XLA


class ClassMemory(keras.layers.Layer):
    """The last `size` vectors of each class that were stored.

    Args:
        classes: K.
        size: M, the number of rows of each class.
        width: C, the number of channels.
        name: of the layer.

    >>> memory = ClassMemory(2, 3, 1, name="memory")
    >>> memory.store(ops.convert_to_tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), [[True, True], [False, False]])
    >>> rows, is_filled = memory.draw(1, keras.random.SeedGenerator(0))
    >>> float(rows[0, 0]) in (1.0, 2.0), is_filled.numpy().tolist()
    (True, [True, False])
    """

    def __init__(self, classes: int, size: int, width: int, **options: Any):
        super().__init__(dtype="float32", autocast=False, **options)
        self.classes, self.size = classes, size
        state = {"initializer": "zeros", "trainable": False, "aggregation": "only_first_replica"}
        # The last row of each class takes what is not stored, so that shapes are static; it stays zero.
        self.rows = self.add_weight(name="rows", shape=(classes * (size + 1), width), **state)
        self.next = self.add_weight(name="next", shape=(classes,), dtype="int32", **state)
        self.filled = self.add_weight(name="filled", shape=(classes,), dtype="int32", **state)
        self.built = True

    def store(self, rows: Tensor, is_valid: Tensor) -> None:
        """Stores some finite vectors in place of the oldest ones; of more than M of a class, the first M.

        Args:
            rows: `(K, N, C)`.
            is_valid: which of them to store, `(K, N)` bool.
        """
        is_valid = ops.logical_and(ops.cast(is_valid, "bool"), ops.all(ops.isfinite(rows), axis=-1))
        rank = ops.cumsum(ops.cast(is_valid, "int32"), axis=1) - 1
        is_stored = ops.logical_and(is_valid, rank < self.size)
        index = ops.where(is_stored, (self.next[:, None] + rank) % self.size, self.size)
        index = index + ops.arange(self.classes, dtype="int32")[:, None] * (self.size + 1)
        values = ops.where(is_stored[..., None], ops.cast(rows, "float32"), 0.0)
        values = ops.reshape(ops.stop_gradient(values), (-1, self.rows.shape[-1]))
        count = ops.sum(ops.cast(is_stored, "int32"), axis=1)
        self.rows.assign(ops.scatter_update(self.rows, ops.reshape(index, (-1, 1)), values))
        self.next.assign((self.next + count) % self.size)
        self.filled.assign(ops.minimum(self.filled + count, self.size))

    def draw(self, count: int, generator: keras.random.SeedGenerator) -> tuple[Tensor, Tensor]:
        """Draws rows of each class with replacement: `(K * count, C)`, and which are filled, `(K * count,)` bool."""
        filled = ops.convert_to_tensor(self.filled)[:, None]
        index = keras.random.randint((self.classes, count), 0, LARGEST, seed=generator) % ops.maximum(filled, 1)
        index = index + ops.arange(self.classes, dtype="int32")[:, None] * (self.size + 1)
        is_filled = ops.broadcast_to(filled > 0, (self.classes, count))
        return ops.take(self.rows, ops.reshape(index, (-1,)), axis=0), ops.reshape(is_filled, (-1,))


def sample_per_class(
    maps: Tensor, label: Tensor, classes: int, count: int, generator: keras.random.SeedGenerator
) -> tuple[Tensor, Tensor]:
    """Up to `count` random positions of each class of each image.

    Args:
        maps: `(B, H, W, C)`.
        label: `(B, H, W)` int32.
        classes: K.
        count: n; of a class with fewer positions, all.
        generator: of the random numbers.

    Returns:
        The features `(K, B * n, C)`, and which rows are filled, `(K, B * n)` bool.

    >>> maps, label = ops.ones((2, 1, 3, 4)), ops.convert_to_tensor([[[0, 0, 1]], [[-1, 0, 0]]])
    >>> ops.sum(ops.cast(sample_per_class(maps, label, 2, 5, keras.random.SeedGenerator(0))[1], "int32"), 1).numpy()
    array([4, 1], dtype=int32)
    """
    positions, width = label.shape[1] * label.shape[2], maps.shape[-1]
    features, label = ops.reshape(maps, (-1, positions, width)), ops.reshape(label, (-1, 1, positions))
    keys = keras.random.randint(ops.shape(label), 0, LARGEST, seed=generator)
    keys = ops.where(label == ops.arange(classes, dtype="int32")[None, :, None], keys, -1)
    count = min(count, positions)
    values, indices = ops.top_k(keys, count)  # (B, K, n)
    rows = ops.take_along_axis(features, ops.reshape(indices, (-1, classes * count, 1)), axis=1)
    rows = ops.transpose(ops.reshape(rows, (-1, classes, count, width)), (1, 0, 2, 3))
    is_filled = ops.reshape(ops.transpose(values >= 0, (1, 0, 2)), (classes, -1))
    return ops.reshape(rows, (classes, -1, width)), is_filled


def means_per_class(maps: Tensor, label: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The mean features of each class in each image as unit vectors `(K, B, C)`, and which images have it `(K, B)`.

    >>> means, has_class = means_per_class(ops.ones((1, 1, 2, 4)), ops.convert_to_tensor([[[0, -1]]]), 2)
    >>> means[:, 0, 0].numpy().tolist(), has_class.numpy().tolist()
    ([0.5, 0.0], [[True], [False]])
    """
    positions = label.shape[1] * label.shape[2]
    target = ops.one_hot(ops.reshape(label, (-1, positions)), classes, dtype="float32")
    features = ops.reshape(ops.cast(maps, "float32"), (-1, positions, maps.shape[-1]))
    totals = ops.einsum("bpk,bpc->kbc", target, features)
    counts = ops.transpose(ops.sum(target, axis=1))
    return l2_normalize(totals / ops.maximum(counts[..., None], 1.0)), counts > 0
