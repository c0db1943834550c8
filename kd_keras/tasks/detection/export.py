"""Writes a detector as a SavedModel, a LiteRT file or an ONNX file, with non-maximum suppression inside.

Every format takes uint8 images `(B, H, W, C)` of the size of the detector's input and returns what `ServedDetector`
describes: `boxes`, `scores`, `classes` and `count`, or without suppression the `boxes` and `scores` of all anchors. An
export is written to a temporary path, loaded by its own runtime and compared with the Keras model on real images. Only
then does it replace what is at its path.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch
from kd_keras.export.partial_int8 import convert_to_partial_int8
from kd_keras.export.paths import staging_path
from kd_keras.export.writing import calibration_inputs, convert_to_litert, write_saved_model
from kd_keras.models import Detector
from kd_keras.tasks.detection.export_check import BOX_TOLERANCES, BoxExport, BoxReference, BoxTolerance
from kd_keras.tasks.detection.served import SCOPE, ServedDetector
from kd_keras.tasks.exporting import check_request, write_format
from kd_keras.tasks.protocols import FORMATS


def export_detector(
    network: Detector,
    path: str | Path,
    format: str,
    *,
    sample: np.ndarray,
    labels: Mapping[str, np.ndarray] | None = None,
    class_names: Sequence[str] | None = None,
    representative: np.ndarray | None = None,
    suppression: bool = True,
    tolerance: BoxTolerance | None = None,
    **options: Any,
) -> BoxExport:
    """Writes a detector in a format, runs it in its own runtime and compares it with the Keras model.

    * "saved_model": its `serve` function and its default signature take any batch size. With `class_names` a second
      signature, `"class_names"`, takes nothing and returns all names `(K,)`.
    * "litert", "litert_float16" and "litert_int8": a LiteRT file for one image at a time, of builtin operations alone.
      The first two compute in float32. In "litert_int8" the network computes in integers, and its outputs are decoded
      in float; scores are multiples of 1/256. With `class_names` the file ends with a zip archive of `labels.txt`, one
      name per line.
    * "onnx": the batch size is free, and the metadata entry `class_names` has the names, one per line.

    Args:
        network: a detector, as `models.build("detector/...")` builds them.
        path: a directory for "saved_model", else a file `.tflite` or `.onnx`; an earlier export is replaced.
        format: a key of `FORMATS`.
        sample: `(n, H, W, C)` uint8 images of the size of the detector's input, to compare on.
        labels: "boxes" and "classes" of these images, as `data.load_boxes` gives them.
        class_names: K names in the order of the classes.
        representative: `(n, H, W, C)` uint8 images for "litert_int8", from which it takes the ranges of the
            activations: a hundred or more training images.
        suppression: whether non-maximum suppression is inside.
        tolerance: the largest accepted difference from the model, by default that of the precision in `BOX_TOLERANCES`.
        **options: of `kd_keras.detection.decoding.detect`, such as `score_threshold=`.

    Returns:
        The accepted export and what was measured.

    Raises:
        ValueError: if the format is unknown or does not support the network, or the export differs by more than
            `tolerance`, contains more than the detector, or would replace something else.
    """
    image_shape = network.input_shape[1:]
    path = check_request(format, path, np.asarray(sample), representative, image_shape)
    reference = BoxReference(ServedDetector(network, suppression, **options), sample, labels)
    if class_names is not None and len(class_names) != reference.source.classes:
        expected = f"{reference.source.classes} class names, one per class of {network.name!r}"
        raise ValueError(explain_mismatch(expected, f"{len(class_names)}: {', '.join(class_names)}"))
    served = reference.served
    convert = functools.partial(_convert_to_litert, served, representative)
    tolerance = BOX_TOLERANCES[FORMATS[format][1]] if tolerance is None else tolerance
    with staging_path(path) as staging:
        write_format(format, served.__call__, network, staging, image_shape, convert, class_names)
        return reference.accept(format, staging, path, tolerance)


def _convert_to_litert(served: ServedDetector, representative: np.ndarray | None, precision: str) -> bytes:
    """The content of the LiteRT file, for one image at a time."""
    network, image_shape = served.network, served.network.input_shape[1:]
    if precision != "int8" or representative is None:
        return convert_to_litert(served.__call__, network, image_shape, precision, batch=1)
    options = {**served.options, "select": _select_bits} if served.suppression else served.options
    served = ServedDetector(network, served.suppression, **options)
    with tempfile.TemporaryDirectory() as directory:
        write_saved_model(served.__call__, network, directory, image_shape, batch=1)
        inputs = functools.partial(calibration_inputs, representative)
        return convert_to_partial_int8(directory, inputs, SCOPE, list(network.output))


def _select_bits(boxes: Tensor, indices: Tensor) -> Tensor:
    """The boxes at some indices, by a selection of integers: of floats the converter makes int8, 1/255 image coarse."""
    bits = tf.gather(tf.bitcast(boxes, tf.int32), indices, batch_dims=1)
    return tf.bitcast(bits, tf.float32)
