"""Compares the range of the images with what a network's own preprocessing expects."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

SCALING = (keras.layers.Rescaling, keras.layers.Normalization)
SMALLEST_SPAN, LARGEST_VALUE = 0.03, 30.0  # of sensible inputs of a first convolution


def warn_of_pixel_range(networks: Iterable[keras.Model], images: Any) -> None:
    """Warns if the scaling layers at the beginning of a network make the images nearly constant, or huge.

    Args:
        networks: the networks that read the images; one without scaling layers is not judged.
        images: one batch `(B, H, W, C)`; anything else is not judged.
    """
    if not hasattr(images, "shape") or len(images.shape) != 4:
        return
    pixels = ops.convert_to_numpy(images).astype("float32")
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all() or low == high:
        return
    for network in networks:
        scaled = _scaled(network, np.full((2, 1, 1, pixels.shape[-1]), [[[[low]]], [[[high]]]], "float32"))
        if scaled is None:
            continue
        start, end = float(scaled.min()), float(scaled.max())
        spans = scaled[1] - scaled[0]  # of each channel
        only_centers = np.allclose(spans, high - low) and np.abs(scaled[0] - low).max() > LARGEST_VALUE
        unit = 255 if only_centers else 1  # networks of which the first layers only subtract the mean read pixels
        if np.abs(spans).max() < SMALLEST_SPAN * unit or max(abs(start), abs(end)) > LARGEST_VALUE * unit:
            warnings.warn(
                f"The images have pixel values from {low:g} to {high:g}, of which the first layers of {network.name!r} "
                f"make {start:.3g} to {end:.3g}. Networks with such layers expect values from 0 to 255: multiply the "
                "images, or remove the layers.",
                stacklevel=2,
            )


def _scaled(network: keras.Model, pixels: np.ndarray) -> np.ndarray | None:
    """Pixels after the scaling layers with which a network begins; `None` if there are none."""
    count = 0
    for layer in getattr(network, "layers", ()):
        if isinstance(layer, SCALING):
            if isinstance(layer, keras.layers.Normalization) and layer.axis not in ((-1,), (3,), ()):
                return None
            pixels, count = ops.convert_to_numpy(layer(pixels)), count + 1
        elif not isinstance(layer, keras.layers.InputLayer):
            break
    return pixels if count else None
