"""Views of images, each a pure function of the image and a seed, so that every view can be repeated.

On one image: `pad_crop_flip`, `shift`, `random_resized_crop`, `rand_augment`. They take `(H, W, C)`, uint8 in 0..255 or
floating point in 0..1, and return the same type and range. On a batch: `mixup` and `cutmix`. A seed is a tensor `(2,)`
of integers; nothing here reads or changes a random state. `Augmentation` combines them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import tensorflow as tf

from kd_keras.data.rand_augment import rand_augment
from kd_keras.errors import shorten

Mixed: TypeAlias = tuple[tf.Tensor, "tf.Tensor | None"]


def pad_crop_flip(image: tf.Tensor, seed: tf.Tensor, pad: int = 4, flip: bool = True) -> tf.Tensor:
    """Pads with `pad` zeros on each side, crops the original size at a random position, and flips half of the images.

    The usual augmentation of CIFAR (Lee et al. 2015, https://arxiv.org/abs/1409.5185).

    >>> pad_crop_flip(tf.ones((8, 8, 1)), [1, 2], pad=2).shape
    TensorShape([8, 8, 1])
    """
    draws = tf.random.stateless_uniform((3,), seed)
    view = image = tf.convert_to_tensor(image)
    if pad:
        # floor(u * n) is uniform over 0 to n - 1, because u < 1 also after rounding.
        corner = tf.cast(tf.floor(draws[:2] * (2 * pad + 1)), tf.int32)
        padded = tf.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        view = tf.slice(padded, tf.concat([corner, [0]], 0), tf.shape(image))
    if flip:
        view = tf.cond(draws[2] < 0.5, lambda: tf.reverse(view, [1]), lambda: view)
    return tf.ensure_shape(view, image.shape)


def shift(image: tf.Tensor, seed: tf.Tensor, pixels: int = 2) -> tf.Tensor:
    """Moves the image by up to `pixels` along both axes, fills with zeros and never flips, as digits require.

    >>> shift(tf.ones((8, 8, 1)), [1, 2]).shape
    TensorShape([8, 8, 1])
    """
    return pad_crop_flip(image, seed, pad=pixels, flip=False)


def random_resized_crop(
    image: tf.Tensor,
    seed: tf.Tensor,
    size: Sequence[int],
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> tf.Tensor:
    """Crops a random part of the image, resizes it to `size` `(H, W)`, and flips half of the images.

    Szegedy et al. 2015 (https://arxiv.org/abs/1409.4842, section 6). The ratio is uniform in `ratio`, while
    torchvision's is uniform in its logarithm. If none of ten draws fits into the image, the whole image is used.

    Args:
        image: `(H, W, C)`.
        seed: `(2,)` integer.
        size: `(H', W')` of the result.
        area: the range of the crop's area, as a fraction of the image's area.
        ratio: the range of the crop's width divided by its height.
        flip: whether to flip half of the images.

    >>> random_resized_crop(tf.ones((8, 8, 1)), [1, 2], (4, 4)).shape
    TensorShape([4, 4, 1])
    """
    image = tf.convert_to_tensor(image)
    box_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        seed=box_seed,
        min_object_covered=0.0,
        aspect_ratio_range=ratio,
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    crop = tf.image.resize(tf.slice(image, begin, extent), size, antialias=True)
    crop = tf.cast(tf.round(crop) if image.dtype.is_integer else crop, image.dtype)
    return pad_crop_flip(tf.ensure_shape(crop, (*size, image.shape[-1])), flip_seed, pad=0, flip=flip)


def mixup(images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor, alpha: float) -> Mixed:
    """Blends each image and its label with those of its partner, the image at its place in the reversed batch.

    Zhang et al. 2017 (https://arxiv.org/abs/1710.09412); one blending ratio for each example, from Beta(alpha, alpha).
    With `alpha=1`, a uniform ratio, this is the mixing of "patient and consistent" teaching (Beyer et al. 2021,
    https://arxiv.org/abs/2106.05237).

    Args:
        images: `(B, H, W, C)` floating point, of any range.
        labels: `(B, K)` floating point, or `None`.
        seed: `(2,)` integer.
        alpha: greater than 0.

    >>> mixup(tf.constant([0.0, 255.0])[:, None, None, None], None, [1, 2], alpha=1.0)[0].shape
    TensorShape([2, 1, 1, 1])
    """
    ratio = _draw_beta(seed, alpha, tf.shape(images)[0])
    labels = None if labels is None else _blend(labels, ratio[:, None])
    return _blend(images, ratio[:, None, None, None]), labels


def cutmix(images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor, alpha: float) -> Mixed:
    """Replaces a box of each image by that of its partner in the reversed batch, and mixes the labels by area.

    Yun et al. 2019 (https://arxiv.org/abs/1905.04899, equations 1 and 2); one box for each example. Only the part of
    the box inside the image counts for the labels, as in the authors' code. The arguments are those of `mixup`.

    >>> cutmix(tf.zeros((2, 4, 4, 1)), tf.eye(2), [1, 2], alpha=1.0)[1].shape
    TensorShape([2, 2])
    """
    count, height, width = tf.unstack(tf.shape(images)[:3])
    side_seed, center_seed = tf.unstack(tf.random.split(seed, 2))
    cut = tf.sqrt(1 - _draw_beta(side_seed, alpha, count))
    centers = tf.random.stateless_uniform((2, count), center_seed)

    def is_inside(length: tf.Tensor, center: tf.Tensor) -> tf.Tensor:
        size = tf.cast(length, tf.float32)
        middle, half = tf.floor(center * size), tf.floor(tf.floor(cut * size) / 2)
        position = tf.range(size)
        return (position >= (middle - half)[:, None]) & (position < (middle + half)[:, None])

    box = is_inside(height, centers[0])[:, :, None] & is_inside(width, centers[1])[:, None, :]
    remaining = 1 - tf.cast(box, tf.float32)
    labels = None if labels is None else _blend(labels, tf.reduce_mean(remaining, [1, 2])[:, None])
    return tf.where(box[..., None], images[::-1], images), labels


def _blend(values: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    return ratio * values + (1 - ratio) * values[::-1]


def _draw_beta(seed: tf.Tensor, alpha: float, count: tf.Tensor) -> tf.Tensor:
    # A ratio of gammas is a beta. At a small alpha both may underflow to 0; the ratio 0 is then the nearest value.
    first, second = tf.unstack(tf.random.stateless_gamma((2, count), seed, alpha))
    return tf.math.divide_no_nan(first, first + second)


@dataclass(frozen=True)
class Augmentation:
    """Which views a training pipeline makes; none by default.

    Attributes:
        crop: zeros added on each side before a crop of the original size.
        flip: whether to flip half of the images.
        shift: the largest translation in pixels; the rest is filled with zeros.
        resized_crop: whether to crop a random part and resize it to the size of the image.
        rand_augment: (layers, magnitude from 0 to 10), applied after the crop.
        mixup: its alpha, 0 for none.
        cutmix: its alpha, 0 for none. If mixup and cutmix are both above 0, each batch takes one of them at random.

    Raises:
        ValueError: if a field is out of range, or more than one of crop, shift and resized_crop is given.

    >>> Augmentation(crop=4, flip=True).mixes
    False
    """

    crop: int = 0
    flip: bool = False
    shift: int = 0
    resized_crop: bool = False
    rand_augment: tuple[int, float] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for field in ("crop", "shift"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 0:
                raise ValueError(
                    f"{field} must be a whole number of pixels, 0 for none, but received {shorten(value)}."
                )
        for field in ("mixup", "cutmix"):
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{field} must be a finite alpha, 0 for none, but received {shorten(value)}.")
        crops = [field for field in ("crop", "shift", "resized_crop") if getattr(self, field)]
        if len(crops) > 1:
            raise ValueError(
                f"Only one of crop, shift and resized_crop is possible, but received {' and '.join(crops)}."
            )
        if self.rand_augment is not None:
            _check_rand_augment(self.rand_augment)

    @property
    def changes_images(self) -> bool:
        """Whether `view` changes images at all."""
        return bool(self.crop or self.flip or self.shift or self.resized_crop or self.rand_augment)

    @property
    def mixes(self) -> bool:
        """Whether `mix` changes batches at all; labels are then probabilities."""
        return self.mixup > 0 or self.cutmix > 0

    def view(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The view of one image `(H, W, C)` for a seed `(2,)`, of the same shape and type.

        >>> Augmentation(flip=True).view(tf.zeros((8, 8, 1), tf.uint8), [1, 2]).dtype
        tf.uint8
        """
        crop_seed, color_seed = tf.unstack(tf.random.split(seed, 2)) if self.rand_augment else (seed, None)
        if self.resized_crop:
            image = random_resized_crop(image, crop_seed, image.shape[:2], flip=self.flip)
        elif self.crop or self.shift or self.flip:
            image = pad_crop_flip(image, crop_seed, self.crop or self.shift, self.flip)
        return rand_augment(image, color_seed, *self.rand_augment) if self.rand_augment else image

    def mix(self, images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor) -> Mixed:
        """The mixed batch for a seed `(2,)`: `(B, H, W, C)` with `(B, K)` labels or `None`.

        >>> Augmentation(mixup=1.0).mix(tf.zeros((2, 4, 4, 1)), tf.eye(2), [1, 2])[1].shape
        TensorShape([2, 2])
        """
        choice_seed, mix_seed = tf.unstack(tf.random.split(seed, 2))
        # One column of zeros replaces missing labels, because both branches of a condition must return one structure.
        targets = tf.zeros((tf.shape(images)[0], 1)) if labels is None else labels
        mixers = [
            functools.partial(function, images, targets, mix_seed, alpha)
            for function, alpha in ((mixup, self.mixup), (cutmix, self.cutmix))
            if alpha > 0
        ]
        if len(mixers) == 2:
            mixed, targets = tf.cond(tf.random.stateless_uniform((), choice_seed) < 0.5, *mixers)
        else:
            mixed, targets = mixers[0]() if mixers else (images, targets)
        return mixed, None if labels is None else targets


def _check_rand_augment(pair: Any) -> None:
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(n, (int, float)) for n in pair)
    if not is_pair or pair[0] != int(pair[0]) or pair[0] < 1 or not 0 <= pair[1] <= 10:
        raise ValueError(
            "rand_augment must be (layers, magnitude), layers from 1 and magnitude from 0 to 10, such as (2, 9), "
            f"but received {shorten(pair)}."
        )
