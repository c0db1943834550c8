"""Views of images, each a pure function of the image and a seed, so that every view can be repeated.

On one image: `pad_crop_flip`, `shift`, `random_resized_crop`, `rand_augment`. They take `(H, W, C)`, uint8 in 0..255 or
floating point in 0..1, and return the same type and range. On a batch: `mixup` and `cutmix` of `mixing.py`, for boxes
`mosaic` and `mixup_boxes` of `box_mixing.py`. A seed is a tensor `(2,)` of integers; nothing here reads or changes a
random state. `Augmentation` combines them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kd_keras.data.box_mixing import mixup_boxes, mosaic
from kd_keras.data.labels import Label, Window, label_in_window, whole_image
from kd_keras.data.mixing import cutmix, mixup
from kd_keras.data.rand_augment import rand_augment
from kd_keras.data.scaling import check_scale, scale_and_crop
from kd_keras.errors import shorten


def pad_crop_flip(image: tf.Tensor, seed: tf.Tensor, pad: int = 4, flip: bool = True) -> tf.Tensor:
    """Pads with `pad` zeros on each side, crops the original size at a random position, and flips half of the images.

    The usual augmentation of CIFAR (Lee et al. 2015, https://arxiv.org/abs/1409.5185).

    >>> pad_crop_flip(tf.ones((8, 8, 1)), [1, 2], pad=2).shape
    TensorShape([8, 8, 1])
    """
    return _pad_crop_flip(image, seed, pad, flip)[0]


def _pad_crop_flip(image: tf.Tensor, seed: tf.Tensor, pad: int, flip: bool) -> tuple[tf.Tensor, Window]:
    draws = tf.random.stateless_uniform((3,), seed)
    view = image = tf.convert_to_tensor(image)
    edges, is_flipped = whole_image()
    if pad:
        # floor(u * n) is uniform over 0 to n - 1, because u < 1 even after rounding.
        corner = tf.cast(tf.floor(draws[:2] * (2 * pad + 1)), tf.int32)
        padded = tf.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        view = tf.slice(padded, tf.concat([corner, [0]], 0), tf.shape(image))
        start = tf.cast(corner - pad, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
        edges = tf.concat([start, start + 1], 0)
    if flip:
        is_flipped = draws[2] < 0.5
        view = tf.cond(is_flipped, lambda: tf.reverse(view, [1]), lambda: view)
    return tf.ensure_shape(view, image.shape), Window(edges, is_flipped)


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
    return _random_resized_crop(image, seed, size, area, ratio, flip)[0]


def _random_resized_crop(
    image: tf.Tensor,
    seed: tf.Tensor,
    size: Sequence[int],
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> tuple[tf.Tensor, Window]:
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
    view, flipped = _pad_crop_flip(tf.ensure_shape(crop, (*size, image.shape[-1])), flip_seed, 0, flip)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    edges = tf.concat([tf.cast(corner[:2], tf.float32) / sides for corner in (begin, begin + extent)], 0)
    return view, Window(edges, flipped.is_flipped)


@dataclass(frozen=True)
class Augmentation:
    """Which views a training pipeline makes; none by default.

    Attributes:
        crop: zeros added on each side before a crop of the original size.
        flip: whether to flip half of the images.
        shift: the largest translation in pixels; the rest is filled with zeros.
        resized_crop: whether to crop a random part and resize it to the size of the image.
        scale: the smallest and the largest factor of a random scale, which a random crop of the image's size follows,
            such as (0.5, 2.0) for segmentation.
        mosaic: for images with boxes, the share of images that become a window of four images, from 0 to 1.
        rand_augment: (layers, magnitude from 0 to 10), applied after the crop.
        mixup: its alpha, 0 for none.
        cutmix: its alpha, 0 for none. If mixup and cutmix are both above 0, each batch takes one of them at random.

    Raises:
        ValueError: if a field is out of range, or more than one of crop, shift, resized_crop and scale is given.

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
    scale: tuple[float, float] | None = None
    mosaic: float = 0.0

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
        if not isinstance(self.mosaic, (int, float)) or not 0 <= self.mosaic <= 1:
            raise ValueError(f"mosaic must be a share of the images from 0 to 1, but received {shorten(self.mosaic)}.")
        crops = [field for field in ("crop", "shift", "resized_crop", "scale") if getattr(self, field)]
        if len(crops) > 1:
            raise ValueError(
                f"Only one of crop, shift, resized_crop and scale is possible, but received {' and '.join(crops)}."
            )
        if self.scale is not None:
            check_scale(self.scale)
        if self.rand_augment is not None:
            _check_rand_augment(self.rand_augment)

    @property
    def changes_images(self) -> bool:
        """Whether `view` changes images at all."""
        crops = self.crop or self.shift or self.resized_crop or self.scale
        return bool(crops or self.flip or self.rand_augment)

    @property
    def mixes(self) -> bool:
        """Whether `mix` changes batches at all; labels that are classes are then probabilities."""
        return self.mixup > 0 or self.cutmix > 0 or self.mosaic > 0

    def view(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The view of one image `(H, W, C)` for a seed `(2,)`, of the same shape and type.

        >>> Augmentation(flip=True).view(tf.zeros((8, 8, 1), tf.uint8), [1, 2]).dtype
        tf.uint8
        """
        return self._view(image, seed)[0]

    def view_with_label(self, image: tf.Tensor, label: Label, seed: tf.Tensor) -> tuple[tf.Tensor, Label]:
        """The view of `view`, with its label: a class stays, boxes and masks follow the crop and the flip.

        Raises:
            ValueError: for boxes or a mask with `rand_augment`, which also rotates and shears.

        >>> boxes = {"boxes": tf.constant([[0.0, 0.0, 1.0, 0.25]]), "classes": tf.constant([3], tf.int64)}
        >>> image, label = Augmentation(flip=True).view_with_label(tf.zeros((8, 8, 1), tf.uint8), boxes, [1, 1])
        >>> label["boxes"].numpy().tolist()
        [[0.0, 0.75, 1.0, 1.0]]
        """
        if self.rand_augment and (isinstance(label, dict) or label.shape.rank):
            raise ValueError(
                "Boxes and masks cannot follow rand_augment, which also rotates and shears, but received "
                f"rand_augment={self.rand_augment}. Use flip with one of crop, shift, resized_crop and scale."
            )
        view, window = self._view(image, seed)
        return view, label_in_window(label, window)

    def _view(self, image: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, Window]:
        crop_seed, color_seed = tf.unstack(tf.random.split(seed, 2)) if self.rand_augment else (seed, None)
        window = whole_image()
        if self.resized_crop:
            image, window = _random_resized_crop(image, crop_seed, image.shape[:2], flip=self.flip)
        elif self.scale:
            scale_seed, flip_seed = tf.unstack(tf.random.split(crop_seed, 2))
            image, window = scale_and_crop(image, scale_seed, self.scale)
            image, flipped = _pad_crop_flip(image, flip_seed, 0, self.flip)
            window = Window(window.edges, flipped.is_flipped)
        elif self.crop or self.shift or self.flip:
            image, window = _pad_crop_flip(image, crop_seed, self.crop or self.shift, self.flip)
        image = rand_augment(image, color_seed, *self.rand_augment) if self.rand_augment else image
        return image, window

    def mix(self, images: tf.Tensor, labels: Any, seed: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """The mixed batch for a seed `(2,)`: `(B, H, W, C)` with `(B, K)` labels, boxes or `None`.

        A label of N boxes has 4 N rows after `mosaic` and 2 N after `mixup`.

        >>> Augmentation(mixup=1.0).mix(tf.zeros((2, 4, 4, 1)), tf.eye(2), [1, 2])[1].shape
        TensorShape([2, 2])
        """
        choice_seed, mix_seed = tf.unstack(tf.random.split(seed, 2))
        if isinstance(labels, dict):
            images, labels = mosaic(images, labels, choice_seed, self.mosaic) if self.mosaic else (images, labels)
            return mixup_boxes(images, labels, mix_seed, self.mixup) if self.mixup else (images, labels)
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
