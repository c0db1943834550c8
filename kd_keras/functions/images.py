"""The images that a file or a server reads: their size, the place of the channels, their type, and fixed batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch


def fit_images(images: np.ndarray, shape: Sequence[int | None], name: str) -> np.ndarray:
    """Images in the size and the layout that a function declares.

    Args:
        images: `(B, H, W, C)`, or what a `preprocess` made of them.
        shape: of the declared input with the batch dimension, with `None` for a free size. An input `(B, C, H, W)`, as
            PyTorch has it, is recognized by its number of channels.
        name: of the function, for the message.

    Returns:
        The images unchanged if they fit; else resized bilinearly (with antialiasing) and transposed if necessary.

    Raises:
        ValueError: if they do not fit, for example if the numbers of channels differ.

    >>> fit_images(np.zeros((2, 4, 4, 3)), (None, 3, 8, 8), "teacher").shape
    (2, 3, 8, 8)
    """
    if _fits(images.shape, shape):
        return images
    if images.ndim == len(shape) == 4:
        channels = images.shape[-1]
        if shape[-1] == channels:
            return _resize(images, shape[1:3])
        if shape[1] == channels:
            return _resize(images, shape[2:]).transpose(0, 3, 1, 2)
    expected = f"images of shape {tuple(shape)}, which {name} reads"
    received = f"images of shape {(None, *images.shape[1:])}"
    raise ValueError(explain_mismatch(expected, received, "pass preprocess= with a function that converts them"))


def to_type(images: np.ndarray, dtype: np.dtype | type | str, scale: float = 0.0, zero: int = 0) -> np.ndarray:
    """Images as another type; integers are rounded and clipped to its range.

    Args:
        images: of any type.
        dtype: the type that is read.
        scale, zero: of a quantized input, whose integers q stand for `scale * (q - zero)`; a scale of 0 for any other.

    >>> to_type(np.array([-1.0, 1.6, 300.0]), "uint8").tolist(), to_type(np.array([0.5]), "int8", 0.25, -3).tolist()
    ([0, 2, 255], [-1])
    """
    dtype = np.dtype(dtype)
    if dtype.kind not in "iu" or images.dtype == dtype:
        return images.astype(dtype)
    limits = np.iinfo(dtype)
    values = images / scale + zero if scale else images
    return np.clip(np.round(values), limits.min, limits.max).astype(dtype)


def in_batches(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, size: int | None) -> np.ndarray:
    """The outputs of a function that takes batches of a fixed size; the last batch is filled up with its last image.

    >>> in_batches(lambda images: images.sum(keepdims=True), np.ones((3, 1)), 1).shape
    (3, 1)
    """
    if size is None:
        return run(images)
    outputs = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        outputs.append(run(filled)[: len(part)])
    return np.concatenate(outputs)


def _fits(shape: Sequence[int], declared: Sequence[int | None]) -> bool:
    pairs = zip(shape[1:], declared[1:], strict=False)
    return len(shape) == len(declared) and all(size in (None, own) for own, size in pairs)


def _resize(images: np.ndarray, size: Sequence[int | None]) -> np.ndarray:
    height, width = (target or own for target, own in zip(size, images.shape[1:3], strict=True))
    if (height, width) == images.shape[1:3]:
        return images
    return tf.image.resize(images, (height, width), antialias=True).numpy()
