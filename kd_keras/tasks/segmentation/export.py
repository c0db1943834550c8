"""Writes a segmentation network as a file from uint8 images to class maps, verified against its Keras source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation.base import check_finite
from kd_keras.export.paths import replace, staging_path
from kd_keras.export.runtimes import latency, load_outputs, size_in_bytes
from kd_keras.export.verification import count_parameters, explain_runtime_errors
from kd_keras.export.writing import convert_to_litert
from kd_keras.networks.precision import computing_in_float32
from kd_keras.networks.taps import Tapped
from kd_keras.primitives import resize_bilinear
from kd_keras.tasks.exporting import check_request, write_format
from kd_keras.tasks.segmentation.counts import check_logits

# The lowest fraction of pixels for which an export and its source predict the same class.
AGREEMENT = {"saved_model": 0.999, "litert": 0.999, "litert_float16": 0.99, "litert_int8": 0.9, "onnx": 0.999}


class ClassMapExport(NamedTuple):
    """An accepted export, with what its own runtime measured on the sample.

    Attributes:
        path: of the file or directory.
        format: a key of `FORMATS`.
        bytes: its size.
        parameters: the number of weights in it.
        agreement: the fraction of pixels for which it and the Keras model predict the same class.
        milliseconds: the median time for a single image.
        p95: the 95th percentile of that time.
    """

    path: Path
    format: str
    bytes: int
    parameters: int
    agreement: float
    milliseconds: float
    p95: float


class ClassMaps:
    """From uint8 images `(B, h, w, C)` to class maps `(B, h, w)`, the argmax of the logits at the images' size.

    Images of another size than the network's are resized to it, and the logits back, both bilinearly with half-pixel
    centers and without antialiasing, which LiteRT does not have. Maps are uint8, or int32 for more than 256 classes.

    Args:
        network: with one image input of a fixed size and logits `(B, H, W, K)`.
        image_size: `(h, w)`, by default the network's size.

    Raises:
        ValueError: if the network has other logits.

    >>> network = keras.Sequential([keras.Input((4, 6, 3)), keras.layers.Conv2D(2, 1)])
    >>> maps = ClassMaps(network, (8, 9))(tf.zeros((1, 8, 9, 3), tf.uint8))["classes"]
    >>> maps.shape, maps.dtype
    (TensorShape([1, 8, 9]), tf.uint8)
    """

    def __init__(self, network: keras.Model, image_size: tuple[int, int] | None = None):
        self.network = network
        with computing_in_float32(network):
            self._tapped = Tapped(network, ["logits"])
        shape, size = self._tapped.specs["logits"].shape, tuple(network.input_shape[1:3])
        check_logits(self._tapped.specs["logits"])
        if None in size:
            expected = "a network of a fixed input size with logits (B, H, W, K)"
            raise ValueError(explain_mismatch(expected, f"{network.name!r} with the input {size} and logits {shape}"))
        self.size = size
        self.image_shape = (*(size if image_size is None else tuple(image_size)), network.input_shape[-1])
        self.dtype = tf.uint8 if shape[-1] <= 256 else tf.int32

    def logits(self, images: Tensor) -> Tensor:
        """The logits `(B, h, w, K)` of images `(B, h, w, C)`."""
        with computing_in_float32(self.network):
            pixels = resize_bilinear(tf.cast(images, tf.float32), self.size)
            logits = self._tapped(pixels, training=False)[1]["logits"]
        return resize_bilinear(logits, self.image_shape[:2])

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return {"classes": tf.cast(tf.argmax(self.logits(images), -1, tf.int32), self.dtype)}


def export_class_maps(
    network: keras.Model,
    path: str | Path,
    format: str,
    *,
    sample: np.ndarray,
    class_names: Sequence[str] | None = None,
    representative: np.ndarray | None = None,
    agreement: float | None = None,
) -> ClassMapExport:
    """Writes a network in a format, runs it in its own runtime and compares it with the Keras model.

    The input is called "images", `(B, h, w, C)` uint8, and the output "classes", `(B, h, w)`, as `ClassMaps` computes
    it. A LiteRT file has a batch of 1, which can be resized. Names of classes are stored as in `kd_keras.export`.

    Args:
        network: the network; only it is in the file, which the parameter count verifies.
        path: a directory for "saved_model", else a file `.tflite` or `.onnx`.
        format: a key of `FORMATS`.
        sample: `(N, h, w, C)` uint8 images to compare on; their size is that of the export's input.
        class_names: K names in the order of the classes.
        representative: `(N, h, w, C)` uint8 images for "litert_int8".
        agreement: the lowest accepted fraction of pixels with the same class; by default that of `AGREEMENT`.

    Raises:
        ValueError: if the network is no segmentation network, the format does not support it, it differs too much, or
            the file has more weights. What was at `path` is then kept.
    """
    sample = np.asarray(sample)
    maps = ClassMaps(network, sample.shape[1:3] if sample.ndim == 4 else None)
    serve, image_shape = maps.__call__, maps.image_shape
    path = check_request(format, path, sample, representative, image_shape)

    def convert(precision: str) -> bytes:
        return convert_to_litert(serve, network, image_shape, precision, representative)

    with staging_path(path) as staging:
        write_format(format, serve, network, staging, image_shape, convert, class_names)
        export = _verify(maps, staging, path, format, sample, AGREEMENT[format] if agreement is None else agreement)
        replace(staging, path)
        return export


def load_class_maps(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an export with its own runtime: a function from images `(B, h, w, C)` uint8 to class maps `(B, h, w)`."""
    run = load_outputs(path, ["classes"])
    return lambda images: run(images)["classes"]


def _verify(
    maps: ClassMaps, staging: Path, path: Path, format: str, sample: np.ndarray, least: float
) -> ClassMapExport:
    count = count_parameters(maps.network, format, staging)
    with explain_runtime_errors(format, maps.network.name):
        predict = load_class_maps(staging)
        exported = np.concatenate([predict(image[None]) for image in sample])
    original = np.concatenate([_finite_logits(maps, image[None]).argmax(-1) for image in sample])
    agreement = float((exported == original).mean())
    if not agreement >= least:
        raise ValueError(
            f"The {format} export of {maps.network.name!r} is rejected: expected the class of its source for at least"
            f" {least:g} of the pixels, but received {agreement:.4g}. Examine the difference, or lower agreement="
            " (kd_keras.export: tolerance={'agreement': ...})."
        )
    return ClassMapExport(path, format, size_in_bytes(staging), count, agreement, *latency(predict, sample, runs=30))


def _finite_logits(maps: ClassMaps, images: np.ndarray) -> np.ndarray:
    logits = np.asarray(maps.logits(images))
    check_finite(logits, repr(maps.network.name))
    return logits
