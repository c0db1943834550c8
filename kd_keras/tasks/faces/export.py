"""Writes a network of faces as a SavedModel, a LiteRT file or an ONNX file: from a raw image to its unit embedding.

Every format takes "images" `(B, H, W, C)` uint8, pixels in the order of colors in which the network was trained, which
is RGB for all images that `kd_keras.data` reads, and returns "embedding" `(B, D)` float32, a vector of length 1. The
cosine of two faces is the dot product of their embeddings. The head of training, its centers of identities, is left
out. An export is written to a temporary path, loaded by its own runtime and compared with the Keras model on real
images. Only then does it replace what is at its path.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kd_keras.errors import explain_mismatch
from kd_keras.export.paths import replace, staging_path
from kd_keras.export.runtimes import image_shape, latency, load_outputs, size_in_bytes
from kd_keras.export.verification import count_parameters, explain_runtime_errors
from kd_keras.export.writing import convert_to_litert
from kd_keras.models import Recognizer
from kd_keras.networks.precision import computing_in_float32
from kd_keras.tasks.exporting import check_request, write_format
from kd_keras.tasks.protocols import FORMATS

LOWEST_COSINES = {"float32": 1 - 1e-5, "float16": 1 - 1e-3, "int8": 0.95}


class FaceExport(NamedTuple):
    """An accepted export, with what its own runtime measured on the sample.

    Attributes:
        path: of the file or directory.
        format: a key of `FORMATS`.
        bytes: its size.
        parameters: the number of weights in it.
        lowest_cosine: of the sample, the lowest cosine between its embedding and that of the Keras model.
        milliseconds: the median time for a single image.
        p95: the 95th percentile of that time.
    """

    path: Path
    format: str
    bytes: int
    parameters: int
    lowest_cosine: float
    milliseconds: float
    p95: float


def export_embedder(
    network: keras.Model,
    path: str | Path,
    format: str,
    *,
    sample: np.ndarray,
    representative: np.ndarray | None = None,
    flip: bool = False,
    lowest_cosine: float | None = None,
) -> FaceExport:
    """Writes a network in a format, runs it in its own runtime and compares it with the Keras model.

    Args:
        network: from images to embeddings `(B, D)`; of a `models.Recognizer`, its `embedder` is exported.
        path: a directory for "saved_model", else a file `.tflite` or `.onnx`; an earlier export is replaced.
        format: a key of `FORMATS`.
        sample: `(N, H, W, C)` uint8 images to compare on.
        representative: `(N, H, W, C)` uint8 images for "litert_int8", a hundred or more of the training images.
        flip: whether the embedding is that of the image plus that of the mirrored image, as `embed` has it by default:
            twice the time, and the thresholds of such an evaluation hold.
        lowest_cosine: the lowest accepted cosine with the Keras model, by default that of `LOWEST_COSINES`.

    Raises:
        ValueError: if the format is unknown or does not support the network, or the export differs too much or contains
            more than the network.

    >>> network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> import tempfile
    >>> images = np.arange(8, dtype="uint8").reshape(2, 2, 2, 1)
    >>> export = export_embedder(network, tempfile.mkdtemp(), "saved_model", sample=images)
    >>> export.parameters, export.lowest_cosine > 0.999
    (15, True)
    """
    network = network.embedder if isinstance(network, Recognizer) else network
    served, sample = ServedEmbedder(network, flip), np.asarray(sample)
    serve, shape = served.__call__, served.image_shape
    path = check_request(format, path, sample, representative, shape)
    lowest = LOWEST_COSINES[FORMATS[format][1]] if lowest_cosine is None else lowest_cosine

    def convert(precision: str) -> bytes:
        return convert_to_litert(serve, network, shape, precision, representative)

    with staging_path(path) as staging:
        write_format(format, serve, network, staging, shape, convert)
        return _accept(served, sample, format, staging, path, lowest)


class ServedEmbedder:
    """What an export computes: unit embeddings of images, in float32.

    Args:
        network: from images `(B, H, W, C)` of a fixed size to embeddings `(B, D)`.
        flip: whether the embedding of the mirrored image is added.

    Raises:
        ValueError: if it is not such a network.
    """

    def __init__(self, network: keras.Model, flip: bool):
        shape, output = network.input_shape, network.output_shape
        if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:] or len(output) != 2:
            expected = "a network from images (B, H, W, C) of a fixed size to embeddings (B, D)"
            raise ValueError(explain_mismatch(expected, f"{network.name!r} from {shape} to {output}"))
        self.network, self.flip, self.image_shape = network, flip, tuple(shape[1:])

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """`{"embedding": (B, D)}` of images of any type, pixel values from 0 to 255."""
        images = tf.cast(images, tf.float32)
        with computing_in_float32(self.network):
            total = self.network(images, training=False)
            if self.flip:
                total = total + self.network(tf.reverse(images, [2]), training=False)
        return {"embedding": tf.math.l2_normalize(tf.cast(total, tf.float32), axis=-1)}


def _accept(
    served: ServedEmbedder, sample: np.ndarray, format: str, staging: Path, path: Path, lowest: float
) -> FaceExport:
    """Compares a written export with the network and moves it to its path."""
    parameters = count_parameters(served.network, format, staging)
    with explain_runtime_errors(format, served.network.name):
        embed, _ = load_embedder(staging)
        exported = np.concatenate([embed(sample[start : start + 100]) for start in range(0, len(sample), 100)])
    original = np.concatenate(
        [served(tf.constant(sample[start : start + 100]))["embedding"] for start in range(0, len(sample), 100)]
    )
    cosine = float((exported.astype("float64") * original).sum(-1).min())
    length = float(np.abs(np.linalg.norm(exported, axis=-1) - 1).max())
    longest = 0.05 if format == "litert_int8" else 1e-3
    if not (cosine >= lowest and length < longest):  # a comparison with NaN is false
        raise ValueError(
            f"The {format} export of {served.network.name!r} is rejected: compared with its source, expected a cosine"
            f" of at least {lowest:g} and vectors of length 1, but received a cosine of {cosine:.6g} and lengths that"
            f" differ from 1 by up to {length:.2g}. Examine the difference, or lower lowest_cosine="
            " (kd_keras.export: tolerance={'lowest_cosine': ...})."
        )
    times = latency(embed, sample)
    size = size_in_bytes(staging)
    replace(staging, path)
    return FaceExport(path, format, size, parameters, cosine, *times)


def load_embedder(path: str | Path) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, int, int]]:
    """Loads an export with its own runtime, without Keras.

    Args:
        path: a SavedModel directory, a `.tflite` or an `.onnx` file that `export_embedder` wrote.

    Returns:
        A function from images `(B, H, W, C)` uint8 to unit embeddings `(B, D)` float32, and `(H, W, C)`.

    Raises:
        ValueError: if it is another kind of file.
    """
    run = load_outputs(path, ["embedding"])
    return lambda images: run(images)["embedding"], image_shape(path)
