"""Mixed batches, a pure function of the batch and a seed: `mixup` and `cutmix`."""

from __future__ import annotations

from typing import TypeAlias

import tensorflow as tf

Mixed: TypeAlias = tuple[tf.Tensor, "tf.Tensor | None"]


def mixup(images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor, alpha: float) -> Mixed:
    """Blends each image and its label with those of its partner, the image at its place in the reversed batch.

    Zhang et al. 2017 (https://arxiv.org/abs/1710.09412); one blending ratio for each example, from Beta(alpha, alpha);
    other implementations, LightlyTrain's among them, draw one for the batch. With `alpha=1`, a uniform ratio, this is
    the mixing of "patient and consistent" teaching (Beyer et al. 2021, https://arxiv.org/abs/2106.05237).

    Args:
        images: `(B, H, W, C)` floating point, of any range.
        labels: `(B, K)` floating point, or `None`.
        seed: `(2,)` integer.
        alpha: greater than 0.

    >>> mixup(tf.constant([0.0, 255.0])[:, None, None, None], None, [1, 2], alpha=1.0)[0].shape
    TensorShape([2, 1, 1, 1])
    """
    ratio = draw_beta(seed, alpha, tf.shape(images)[0])
    labels = None if labels is None else blend(labels, ratio[:, None])
    return blend(images, ratio[:, None, None, None]), labels


def cutmix(images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor, alpha: float) -> Mixed:
    """Replaces a box of each image by that of its partner in the reversed batch, and mixes the labels by area.

    Yun et al. 2019 (https://arxiv.org/abs/1905.04899, equations 1 and 2); one box for each example. Only the part of
    the box inside the image counts for the labels, as in the authors' code. The arguments are those of `mixup`.

    >>> cutmix(tf.zeros((2, 4, 4, 1)), tf.eye(2), [1, 2], alpha=1.0)[1].shape
    TensorShape([2, 2])
    """
    count, height, width = tf.unstack(tf.shape(images)[:3])
    side_seed, center_seed = tf.unstack(tf.random.split(seed, 2))
    cut = tf.sqrt(1 - draw_beta(side_seed, alpha, count))
    centers = tf.random.stateless_uniform((2, count), center_seed)

    def is_inside(length: tf.Tensor, center: tf.Tensor) -> tf.Tensor:
        size = tf.cast(length, tf.float32)
        middle, half = tf.floor(center * size), tf.floor(tf.floor(cut * size) / 2)
        position = tf.range(size)
        return (position >= (middle - half)[:, None]) & (position < (middle + half)[:, None])

    box = is_inside(height, centers[0])[:, :, None] & is_inside(width, centers[1])[:, None, :]
    remaining = 1 - tf.cast(box, tf.float32)
    labels = None if labels is None else blend(labels, tf.reduce_mean(remaining, [1, 2])[:, None])
    return tf.where(box[..., None], images[::-1], images), labels


def blend(values: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """Each value, weighted by its ratio, and its partner's in the reversed batch, weighted by the rest."""
    return ratio * values + (1 - ratio) * values[::-1]


def draw_beta(seed: tf.Tensor, alpha: float, count: tf.Tensor) -> tf.Tensor:
    """Draws `count` ratios from Beta(alpha, alpha)."""
    # A ratio of gammas is a beta. At a small alpha both may underflow to 0; the ratio 0 is then the nearest value.
    first, second = tf.unstack(tf.random.stateless_gamma((2, count), seed, alpha))
    return tf.math.divide_no_nan(first, first + second)
