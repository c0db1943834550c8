"""How similar are the representations of two networks? Centered kernel alignment (CKA) between their stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from kd_keras.evaluation.base import single_network
from kd_keras.networks.taps import Tapped
from kd_keras.primitives import average_pool_to, flatten
from kd_keras.teacher import Teacher

CELLS = 4  # the largest number of rows and columns that a map is averaged to


def similarity(student: Sequence[np.ndarray], teacher: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields `cka` `(S_student, S_teacher)`, the debiased linear CKA of every pair of stages, largest maps first.

    Linear CKA is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the Gram matrices K and L of two representations of the
    same examples (Kornblith et al. 2019, 1905.00414, section 3). HSIC is its unbiased estimate (Song et al. 2012,
    equation 5; as in Nguyen et al. 2020, 2010.15327). The biased estimate approaches 1 for any two representations with
    more dimensions than examples; the unbiased one is near 0, of either sign, for unrelated representations.

    Args:
        student: its stages as `grams` gives them.
        teacher: the teacher's stages, for the same images.

    Raises:
        ValueError: if the numbers of images differ.

    >>> x = np.random.default_rng(0).normal(size=(8, 3))
    >>> dict(similarity([centered_gram(x)], [centered_gram(7 * x[:, ::-1])]))["cka"].round(6).tolist()
    [[1.0]]
    """
    counts = sorted({len(gram) for gram in (*student, *teacher)})
    if len(counts) > 1:
        raise ValueError(f"CKA compares stages for the same images, but the stages are of {counts} images.")
    yield "cka", np.array([[_cosine(row, column) for column in teacher] for row in student])


def grams(model: keras.Model | Teacher, images: np.ndarray, batch_size: int = 128) -> list[np.ndarray]:
    """A `centered_gram` `(N, N)` for each stage of the model; maps are averaged to at most 4x4 cells and flattened.

    Args:
        model: a Keras model, or a `Teacher` of one network, that reads pixel values from 0 to 255.
        images: `(N, H, W, C)` uint8, at least four.
        batch_size: images per forward pass, 128 by default.

    Raises:
        ValueError: if the model has no stages or consists of several networks, or if there are fewer images.
    """
    prepare, network = single_network(model)
    tapped = Tapped(network, ["stages"], output=False)

    @tf.function(reduce_retracing=True)
    def features(batch: tf.Tensor) -> list[tf.Tensor]:
        stages = tapped(prepare(batch), training=False)[1]["stages"]
        sizes = [tuple(min(CELLS, size) for size in stage.shape[1:3]) for stage in stages]
        return [flatten(average_pool_to(stage, size)) for stage, size in zip(stages, sizes, strict=True)]

    batches = [features(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
    return [centered_gram(np.concatenate(stage)) for stage in zip(*batches, strict=True)]


def centered_gram(features: np.ndarray) -> np.ndarray:
    """The U-centered Gram matrix `(N, N)` float64 of features `(N, D)`.

    The inner product of two such matrices is the unbiased HSIC up to a factor of N (N - 3).

    Raises:
        ValueError: if there are fewer than four examples.
    """
    count = len(features)
    if count < 4:
        raise ValueError(f"The unbiased HSIC needs at least four examples, but received {count}.")
    features = features.astype("float64")
    gram = features @ features.T
    np.fill_diagonal(gram, 0)
    rows = gram.sum(0) / (count - 2)
    gram += rows.sum() / (count - 1) - rows[:, None] - rows
    np.fill_diagonal(gram, 0)
    return gram


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The cosine between two matrices; NaN if one is zero, which is a representation that never changes."""
    norms = np.sqrt((first * first).sum() * (second * second).sum())
    return float((first * second).sum() / norms) if norms else float("nan")
