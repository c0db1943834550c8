"""Do two networks see images alike on the inside? Centred kernel alignment between their stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import inputs_of
from kd_keras.networks.taps import Tapped
from kd_keras.primitives import average_pool_to, flatten
from kd_keras.teacher import Teacher

CELLS = 4  # a map is averaged to at most so many rows and columns


def similarity(student: Sequence[np.ndarray], teacher: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields `cka` `(S_student, S_teacher)`, the debiased linear CKA of every pair of stages, largest maps first.

    Linear CKA is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the Gram matrices K and L of two representations of the
    same examples (Kornblith et al. 2019, 1905.00414, section 3). HSIC is its unbiased estimate (Song et al. 2012,
    equation 5; so used by Nguyen et al. 2020, 2010.15327): the biased one comes near 1 for any two representations of
    more dimensions than examples, and this near 0 for unrelated ones, of either sign.

    Args:
        student: its stages as `grams` gives them.
        teacher: the teacher's, of the same images.

    Raises:
        ValueError: where the numbers of images differ.

    >>> x = np.random.default_rng(0).normal(size=(8, 3))
    >>> dict(similarity([centred_gram(x)], [centred_gram(7 * x[:, ::-1])]))["cka"].round(6).tolist()
    [[1.0]]
    """
    counts = {len(each) for each in (*student, *teacher)}
    if len(counts) > 1:
        raise ValueError(explain_mismatch("stages of the same images", f"{sorted(counts)} images"))
    yield "cka", np.array([[_cosine(one, other) for other in teacher] for one in student])


def grams(model: keras.Model | Teacher, images: np.ndarray, batch_size: int = 128) -> list[np.ndarray]:
    """A `centred_gram` `(N, N)` for each of the model's stages, whose maps are averaged to at most 4x4 cells and
    flattened.

    Args:
        model: a `Teacher` of one network with its preprocessing, or a Keras model that reads images in 0..1.
        images: `(N, H, W, C)` uint8, at least four.
        batch_size: images of one forward pass.

    Raises:
        ValueError: where the model has no stages, is several networks, or for fewer images.
    """
    read, network = inputs_of(model)
    tapped = Tapped(network, ["stages"], output=False)

    @tf.function(reduce_retracing=True)
    def run(batch: tf.Tensor) -> list[tf.Tensor]:
        stages = tapped(read(batch), training=False)[1]["stages"]
        return [flatten(average_pool_to(each, [min(CELLS, size) for size in each.shape[1:3]])) for each in stages]

    found = [run(images[first : first + batch_size]) for first in range(0, len(images), batch_size)]
    return [centred_gram(np.concatenate(stage)) for stage in zip(*found)]


def centred_gram(features: np.ndarray) -> np.ndarray:
    """The U-centred Gram matrix `(N, N)` float64 of features `(N, D)`: the inner product of two of them is, up to a
    factor of N (N - 3), the unbiased HSIC.

    Raises:
        ValueError: for fewer than four examples.
    """
    count = len(features)
    if count < 4:
        raise ValueError(explain_mismatch("at least four examples", f"{count}"))
    features = features.astype("float64")
    gram = features @ features.T
    np.fill_diagonal(gram, 0)
    rows = gram.sum(0) / (count - 2)
    gram += rows.sum() / (count - 1) - rows[:, None] - rows
    np.fill_diagonal(gram, 0)
    return gram


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    """NaN where one of them is zero: a representation that never changes."""
    norms = np.sqrt((one * one).sum() * (other * other).sum())
    return float((one * other).sum() / norms) if norms else float("nan")
