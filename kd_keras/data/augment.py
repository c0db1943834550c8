"""Views of images, each a pure function of the image and a seed, so that any view can be made again.

On one image: `pad_crop_flip`, `shift`, `random_resized_crop`, `rand_augment`. They take `(H, W, C)`, uint8 in 0 to 255
or floating point in 0 to 1, and return the same type and range. On a batch: `mixup` and `cutmix`. A seed is a pair of
integers, a tensor `(2,)`; nothing here reads or moves a random state. `Augmentation` names a combination.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from kd_keras.errors import explain_mismatch

Mixed = tuple[tf.Tensor, tf.Tensor | None]


def pad_crop_flip(image: tf.Tensor, seed: tf.Tensor, pad: int = 4, flip: bool = True) -> tf.Tensor:
    """Pads with `pad` zeros on each side, crops the old size anywhere, and mirrors half of the images.

    The usual augmentation of CIFAR (Lee et al. 2015, https://arxiv.org/abs/1409.5185).

    >>> pad_crop_flip(tf.ones((8, 8, 1)), [1, 2], pad=2).shape
    TensorShape([8, 8, 1])
    """
    draws = tf.random.stateless_uniform((3,), seed)
    view = image = tf.convert_to_tensor(image)
    if pad:
        # One draw for all: floor(u * n) is uniform over 0 to n - 1, as u < 1 also after rounding.
        corner = tf.cast(tf.floor(draws[:2] * (2 * pad + 1)), tf.int32)
        padded = tf.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        view = tf.slice(padded, tf.concat([corner, [0]], 0), tf.shape(image))
    if flip:
        view = tf.cond(draws[2] < 0.5, lambda: tf.reverse(view, [1]), lambda: view)
    return tf.ensure_shape(view, image.shape)


def shift(image: tf.Tensor, seed: tf.Tensor, pixels: int = 2) -> tf.Tensor:
    """Moves the image by up to `pixels` along both axes, zeros coming in; for digits, which must not be mirrored."""
    return pad_crop_flip(image, seed, pad=pixels, flip=False)


def random_resized_crop(
    image: tf.Tensor,
    seed: tf.Tensor,
    size: Sequence[int],
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> tf.Tensor:
    """Crops a share `area` of the image with a width-to-height `ratio`, resizes to `size` `(H, W)`, mirrors half.

    Szegedy et al. 2015 (https://arxiv.org/abs/1409.4842, section 6). The ratio is uniform in `ratio`, where
    torchvision's is uniform in its logarithm. The whole image is taken where no crop of ten fits.
    """
    image = tf.convert_to_tensor(image)
    box, mirror = tf.unstack(tf.random.split(seed, 2))
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        seed=box,
        min_object_covered=0.0,
        aspect_ratio_range=ratio,
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    crop = tf.image.resize(tf.slice(image, begin, extent), size, antialias=True)
    crop = tf.cast(tf.round(crop) if image.dtype.is_integer else crop, image.dtype)
    return pad_crop_flip(tf.ensure_shape(crop, (*size, image.shape[-1])), mirror, pad=0, flip=flip)


def rand_augment(image: tf.Tensor, seed: tf.Tensor, layers: int = 2, magnitude: float = 9) -> tf.Tensor:
    """Applies `layers` operations drawn from fourteen, all at one `magnitude` of 0 to 10.

    Cubuk et al. 2019 (https://arxiv.org/abs/1909.13719, section 3). Ranges are AutoAugment's
    (https://arxiv.org/abs/1805.09501) at magnitude 10: 30 degrees, shear 0.3, translation 0.45 of the side,
    4 bits, factors 0.1 and 1.9. Signs are drawn. Pixels that come in are zero. Keras's layer of this name keeps a
    random state of its own, and so cannot repeat one image's view.
    """
    image = tf.convert_to_tensor(image)
    view = tf.image.convert_image_dtype(image, tf.float32)
    for layer in tf.unstack(tf.random.split(seed, layers)):
        draws = tf.random.stateless_uniform((2,), layer)
        level = tf.where(draws[1] < 0.5, -1.0, 1.0) * magnitude / 10
        operations = [functools.partial(operation, view, level) for operation in OPERATIONS]
        chosen = tf.cast(tf.floor(draws[0] * len(OPERATIONS)), tf.int32)
        view = tf.clip_by_value(tf.switch_case(chosen, operations), 0.0, 1.0)
        view = tf.ensure_shape(view, image.shape)
    if image.dtype.is_integer:
        return tf.cast(tf.round(view * image.dtype.max), image.dtype)
    return tf.cast(view, image.dtype)


def mixup(images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor, alpha: float) -> Mixed:
    """Blends each image, and its label, with that of its partner: the batch in reverse.

    Zhang et al. 2017 (https://arxiv.org/abs/1710.09412); one share for each example, from
    Beta(alpha, alpha). `alpha` 1, a uniform share, is the mixing of "patient and consistent" teaching (Beyer et al.
    2021, https://arxiv.org/abs/2106.05237).

    Args:
        images: `(B, H, W, C)` floating point.
        labels: `(B, K)` floating point, or `None`.
        seed: `(2,)` integer.
        alpha: above 0.
    """
    share = _beta(seed, alpha, tf.shape(images)[0])
    labels = None if labels is None else _blend(labels, share[:, None])
    return _blend(images, share[:, None, None, None]), labels


def cutmix(images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor, alpha: float) -> Mixed:
    """Puts a box of its partner (the batch in reverse) into each image, and mixes labels by area.

    Yun et al. 2019 (https://arxiv.org/abs/1905.04899, equations 1 and 2); one box for each example. Labels follow
    the box as it lies inside the image, as in the authors' code. Arguments as for `mixup`.
    """
    count, height, width = tf.unstack(tf.shape(images)[:3])
    sides, centres = tf.unstack(tf.random.split(seed, 2))
    cut = tf.sqrt(1 - _beta(sides, alpha, count))
    place = tf.random.stateless_uniform((2, count), centres)

    def inside(length: tf.Tensor, centre: tf.Tensor) -> tf.Tensor:
        size = tf.cast(length, tf.float32)
        middle, half = tf.floor(centre * size), tf.floor(tf.floor(cut * size) / 2)
        at = tf.range(size)
        return (at >= (middle - half)[:, None]) & (at < (middle + half)[:, None])

    box = inside(height, place[0])[:, :, None] & inside(width, place[1])[:, None, :]
    kept = 1 - tf.cast(box, tf.float32)
    labels = None if labels is None else _blend(labels, tf.reduce_mean(kept, [1, 2])[:, None])
    return tf.where(box[..., None], images[::-1], images), labels


def _blend(values: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    return share * values + (1 - share) * values[::-1]


def _beta(seed: tf.Tensor, alpha: float, count: tf.Tensor) -> tf.Tensor:
    # A ratio of gammas is a beta. Both may underflow at a small alpha: 0, one end of the beta, is then right.
    first, second = tf.unstack(tf.random.stateless_gamma((2, count), seed, alpha))
    return tf.math.divide_no_nan(first, first + second)


@dataclass(frozen=True)
class Augmentation:
    """Which views a training pipeline makes; none by default.

    Attributes:
        crop: zeros on each side before a crop of the old size.
        flip: mirror half of the images.
        shift: greatest translation in pixels, zeros coming in.
        resized_crop: a random part of the image at its full size.
        rand_augment: (layers, magnitude 0 to 10), after the crop.
        mixup, cutmix: their alpha, 0 for none; where both are above 0, each batch takes one of them at random.

    Raises:
        ValueError: for a field out of range, or more than one of crop, shift and resized_crop.

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

    def __post_init__(self):
        for field in ("crop", "shift"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 0:
                raise ValueError(explain_mismatch(f"{field}: whole pixels, 0 for none", repr(value)))
        for field in ("mixup", "cutmix"):
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(explain_mismatch(f"{field}: an alpha, 0 for none", repr(value)))
        crops = [field for field in ("crop", "shift", "resized_crop") if getattr(self, field)]
        if len(crops) > 1:
            raise ValueError(explain_mismatch("one of crop, shift and resized_crop", " and ".join(crops), "drop the others"))
        if self.rand_augment is not None:
            self._check_rand_augment()

    def _check_rand_augment(self):
        pair = self.rand_augment
        numbers = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(n, (int, float)) for n in pair)
        if not numbers or pair[0] != int(pair[0]) or pair[0] < 1 or not 0 <= pair[1] <= 10:
            raise ValueError(explain_mismatch("rand_augment: (layers from 1, magnitude 0 to 10)", repr(pair), "try (2, 9)"))

    @property
    def changes_images(self) -> bool:
        """Whether `view` does anything."""
        return bool(self.crop or self.flip or self.shift or self.resized_crop or self.rand_augment)

    @property
    def mixes(self) -> bool:
        """Whether `mix` does anything; labels are then probabilities."""
        return self.mixup > 0 or self.cutmix > 0

    def view(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The view of one image `(H, W, C)` that belongs to a seed `(2,)`, of the same shape and type."""
        place, colour = tf.unstack(tf.random.split(seed, 2)) if self.rand_augment else (seed, None)
        if self.resized_crop:
            image = random_resized_crop(image, place, image.shape[:2], flip=self.flip)
        elif self.crop or self.shift or self.flip:
            image = pad_crop_flip(image, place, self.crop or self.shift, self.flip)
        return rand_augment(image, colour, *self.rand_augment) if self.rand_augment else image

    def mix(self, images: tf.Tensor, labels: tf.Tensor | None, seed: tf.Tensor) -> Mixed:
        """The mixed batch that belongs to a seed `(2,)`: `(B, H, W, C)` with `(B, K)` labels or `None`."""
        choice, inner = tf.unstack(tf.random.split(seed, 2))
        # Without labels one column of zeros stands in: both branches of a condition return the same structure.
        given = tf.zeros((tf.shape(images)[0], 1)) if labels is None else labels
        ways = [functools.partial(function, images, given, inner, alpha)
                for function, alpha in ((mixup, self.mixup), (cutmix, self.cutmix)) if alpha > 0]
        if len(ways) == 2:
            mixed, given = tf.cond(tf.random.stateless_uniform((), choice) < 0.5, *ways)
        else:
            mixed, given = ways[0]() if ways else (images, given)
        return mixed, None if labels is None else given


# RandAugment's operations: from an image (H, W, C) in 0 to 1 and a level of -1 to 1 to an image, clipped by the caller.
Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _warp(image: tf.Tensor, rows: list) -> tf.Tensor:
    """Moves pixels: `rows` ((a, b), (c, d), (e, f)) say that output (x, y), seen from the centre, is read at
    (a x + b y + e, c x + d y + f)."""
    (a, b), (c, d), (e, f) = rows
    middle_y, middle_x = tf.unstack((tf.cast(tf.shape(image)[:2], tf.float32) - 1) / 2)
    matrix = [a, b, middle_x + e - a * middle_x - b * middle_y, c, d, middle_y + f - c * middle_x - d * middle_y, 0, 0]
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([tf.cast(number, tf.float32) for number in matrix])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return warped[0]


def _rotate(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    angle = level * math.pi / 6
    return _warp(image, [(tf.cos(angle), -tf.sin(angle)), (tf.sin(angle), tf.cos(angle)), (0, 0)])


def _shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _warp(image, [(1, 0.3 * level), (0, 1), (0, 0)])


def _shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _warp(image, [(1, 0), (0.3 * level, 1), (0, 0)])


def _translate_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _warp(image, [(1, 0), (0, 1), (0.45 * level * tf.cast(tf.shape(image)[1], tf.float32), 0)])


def _translate_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _warp(image, [(1, 0), (0, 1), (0, 0.45 * level * tf.cast(tf.shape(image)[0], tf.float32))])


def _identity(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return tf.identity(image)


def _auto_contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    return tf.where(high > low, tf.math.divide_no_nan(image - low, high - low), image)


def _equalize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    def channel(values: tf.Tensor) -> tf.Tensor:
        bins = tf.cast(tf.round(values * 255), tf.int32)
        share = tf.cumsum(tf.math.bincount(bins, minlength=256, maxlength=256, dtype=tf.float32))
        lowest = share[tf.reduce_min(bins)]
        spread = tf.math.divide_no_nan(share - lowest, share[-1] - lowest)
        return tf.where(share[-1] > lowest, tf.gather(spread, bins), values)

    return tf.stack([channel(image[..., number]) for number in range(image.shape[-1])], -1)


def _solarize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return tf.where(image < 1 - tf.abs(level), image, 1 - image)


def _posterize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    step = 2 ** tf.round(4 * tf.abs(level))  # the lowest 0 to 4 of 8 bits go
    return tf.floor(tf.round(image * 255) / step) * step / 255


def _color(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    if image.shape[-1] != 3:
        return tf.identity(image)
    grey = tf.image.rgb_to_grayscale(image)
    return grey + (1 + 0.9 * level) * (image - grey)


def _contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return tf.image.adjust_contrast(image, 1 + 0.9 * level)


def _brightness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return image * (1 + 0.9 * level)


def _sharpness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32)[..., None, None] / 13
    padded = tf.pad(image, ((1, 1), (1, 1), (0, 0)), "SYMMETRIC")
    blurred = tf.nn.depthwise_conv2d(padded[None], tf.repeat(kernel, image.shape[-1], 2), (1, 1, 1, 1), "VALID")[0]
    return blurred + (1 + 0.9 * level) * (image - blurred)


OPERATIONS: tuple[Operation, ...] = (
    _identity, _auto_contrast, _equalize, _rotate, _solarize, _color, _posterize, _contrast, _brightness, _sharpness,
    _shear_x, _shear_y, _translate_x, _translate_y,
)
