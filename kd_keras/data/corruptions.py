"""Corrupted images, as a camera, a sensor or a codec may produce them, at five severities.

The kinds are those of Hendrycks and Dietterich 2019, 1903.12261, and the strengths those of their CIFAR-10-C, whose
images have 32x32 pixels. Lengths in pixels are not scaled to other sizes. Motion blur and fog differ from the authors'
code: the blur is symmetric, in a random direction for each image, and the fog is a sum of octaves of smooth noise.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from kd_keras.errors import explain_mismatch, shorten, suggest

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupts images; the same call gives the same result.

    Args:
        images: `(N, H, W, C)` uint8 of one or three channels.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: from 0.

    Returns:
        `(N, H, W, C)` uint8.

    Raises:
        ValueError: if the images have another shape or type, or the name or severity is unknown.

    >>> corrupt(np.zeros((1, 2, 2, 1), "uint8"), "brightness", 5).ravel().tolist()
    [76, 76, 76, 76]
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"Images must be (N, H, W, 1 or 3) uint8, but received {images.shape} {images.dtype}.")
    if name not in CORRUPTIONS:
        raise ValueError(explain_mismatch("the name of a corruption", repr(name), suggest(name, CORRUPTIONS)))
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, but received {shorten(severity)}.")
    function, strengths = CORRUPTIONS[name]
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    corrupted = function(images.astype("float32") / 255, strengths[severity - 1], random)
    return np.round(np.clip(corrupted, 0, 1) * 255).astype("uint8")


# Each function takes images (N, H, W, C) float32 in 0..1, a strength and a generator. The caller clips its result.


def _gaussian_noise(images: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return images + deviation * random.standard_normal(images.shape, "float32")


def _shot_noise(images: np.ndarray, photons: float, random: np.random.Generator) -> np.ndarray:
    return random.poisson(images * photons) / photons


def _impulse_noise(images: np.ndarray, fraction: float, random: np.random.Generator) -> np.ndarray:
    draws = random.random(images.shape, "float32")
    return np.where(draws < fraction / 2, 0, np.where(draws > 1 - fraction / 2, 1, images))


def _gaussian_blur(images: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(images, (0, deviation, deviation, 0), mode="nearest", truncate=4)


def _motion_blur(images: np.ndarray, strength: tuple[int, float], random: np.random.Generator) -> np.ndarray:
    """A weighted mean along a line whose direction is between 45 degrees up and down; the weights are Gaussian."""
    radius, deviation = strength
    angles = random.uniform(-np.pi / 4, np.pi / 4, len(images))
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    total = np.zeros_like(images)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        transforms = np.tile(np.array([1, 0, 0, 0, 1, 0, 0, 0], "float32"), (len(images), 1))
        transforms[:, 2], transforms[:, 5] = step * np.cos(angles), step * np.sin(angles)
        total += (
            weight
            * tf.raw_ops.ImageProjectiveTransformV3(
                images=images,
                transforms=transforms,
                output_shape=images.shape[1:3],
                fill_value=0.0,
                interpolation="BILINEAR",
                fill_mode="NEAREST",
            ).numpy()
        )
    return total


def _brightness(images: np.ndarray, added: float, random: np.random.Generator) -> np.ndarray:
    """Raises the value of HSV and keeps hue and saturation."""
    value = images.max(-1, keepdims=True)
    raised = np.minimum(value + added, 1)
    return np.where(value > 0, images * raised / np.maximum(value, 1e-6), raised)


def _contrast(images: np.ndarray, factor: float, random: np.random.Generator) -> np.ndarray:
    mean = images.mean((1, 2), keepdims=True)
    return mean + factor * (images - mean)


def _fog(images: np.ndarray, strength: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    """Adds smooth noise in 0..1, whose octaves weaken by `decay` from coarse to fine, and keeps the maximum."""
    thickness, decay = strength
    (count, height, width), cells, weight = images.shape[:3], 1, 1.0
    cloud = np.zeros((count, height, width, 1), "float32")
    while cells < max(height, width):
        coarse = random.random((count, cells + 1, cells + 1, 1), "float32")
        cloud += weight * tf.image.resize(coarse, (height, width), "bicubic").numpy()
        cells, weight = 2 * cells, weight / decay
    low, high = cloud.min((1, 2, 3), keepdims=True), cloud.max((1, 2, 3), keepdims=True)
    cloud = (cloud - low) / np.maximum(high - low, 1e-6)
    brightest = images.max((1, 2, 3), keepdims=True)
    return (images + thickness * cloud) * brightest / np.maximum(brightest + thickness, 1e-6)


def _jpeg(images: np.ndarray, quality: int, random: np.random.Generator) -> np.ndarray:
    def compress(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _map_images(images, compress)


def _pixelate(images: np.ndarray, scale: float, random: np.random.Generator) -> np.ndarray:
    size = images.shape[2], images.shape[1]
    coarse = [max(1, int(length * scale)) for length in size]
    box, nearest_pixel = Image.Resampling.BOX, Image.Resampling.NEAREST
    return _map_images(images, lambda image: image.resize(coarse, box).resize(size, nearest_pixel))


def _map_images(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    pixels = np.round(images * 255).astype("uint8")
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels]).reshape(
        images.shape
    ) / np.float32(255)


CORRUPTIONS: dict[str, tuple[Callable, tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "motion_blur": (_motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "fog": (_fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}
