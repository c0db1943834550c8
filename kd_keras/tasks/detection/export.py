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

from kd_keras.errors import explain_mismatch, suggest
from kd_keras.export.onnx_graph import convert_to_onnx
from kd_keras.export.partial_int8 import convert_to_partial_int8
from kd_keras.export.paths import check_directory, check_suffix, staging_path
from kd_keras.export.verification import check_images
from kd_keras.export.writing import (
    append_labels,
    calibration_inputs,
    convert_to_litert,
    explain_converter_errors,
    write_saved_model,
)
from kd_keras.models import Detector
from kd_keras.tasks.detection.export_check import BOX_TOLERANCES, BoxExport, BoxReference, BoxTolerance
from kd_keras.tasks.detection.served import SCOPE, ServedDetector

Labels = Mapping[str, np.ndarray]


def saved_model(
    network: Detector,
    directory: str | Path,
    *,
    sample: np.ndarray,
    labels: Labels | None = None,
    class_names: Sequence[str] | None = None,
    suppression: bool = True,
    tolerance: BoxTolerance = BOX_TOLERANCES["float32"],
    **options: Any,
) -> BoxExport:
    """Writes a SavedModel; its `serve` function and its default signature take any batch size.

    With `class_names` a second signature, `"class_names"`, takes nothing and returns all names `(K,)`.

    Args:
        network: a detector, as `models.build("detector/...")` builds them.
        directory: where the SavedModel is written; an existing SavedModel is replaced.
        sample: `(n, H, W, C)` uint8 images of the size of the detector's input, to compare on.
        labels: "boxes" and "classes" of these images, as `data.load_boxes` gives them.
        class_names: K names in the order of the classes.
        suppression: whether non-maximum suppression is inside.
        tolerance: the largest accepted difference from the model.
        **options: of `kd_keras.detection.decoding.detect`, such as `score_threshold=`.

    Returns:
        The accepted export and what was measured.

    Raises:
        ValueError: if the export differs by more than `tolerance`, contains more than the detector, or would replace
            something else.
    """
    reference = _reference(network, sample, labels, class_names, suppression, options)
    path = check_directory(directory)
    with staging_path(path) as staging:
        served, image_shape = reference.served, network.input_shape[1:]
        write_saved_model(served.__call__, network, staging, image_shape, class_names=class_names)
        return reference.accept("saved_model", staging, path, tolerance)


def litert(
    network: Detector,
    file: str | Path,
    *,
    sample: np.ndarray,
    labels: Labels | None = None,
    class_names: Sequence[str] | None = None,
    suppression: bool = True,
    precision: str = "float32",
    representative: np.ndarray | None = None,
    tolerance: BoxTolerance | None = None,
    **options: Any,
) -> BoxExport:
    """Writes a LiteRT (TensorFlow Lite) file for one image at a time, of builtin operations alone.

    "float32" and "float16" store weights of that type and compute in float32. In "int8" the network computes in
    integers, and its outputs are decoded in float; scores are multiples of 1/256. With `class_names` the file ends with
    a zip archive of `labels.txt`, one name per line.

    Args:
        network, sample, labels, class_names, suppression, **options: as `saved_model` takes them.
        file: the path, which must end in `.tflite`.
        precision: "float32" (default), "float16" or "int8".
        representative: `(n, H, W, C)` uint8 images for "int8", from which it takes the ranges of the activations: a
            hundred or more training images.
        tolerance: by default that of the precision in `BOX_TOLERANCES`.

    Raises:
        ValueError: as `saved_model`, and if LiteRT does not support the network.
    """
    path = check_suffix(file, ".tflite")
    if precision not in BOX_TOLERANCES:
        raise ValueError(f"{precision!r} is not a precision of LiteRT: {suggest(precision, BOX_TOLERANCES)}")
    if precision == "int8" and representative is None:
        raise ValueError("Precision 'int8' needs representative= images. Pass a hundred or more training images.")
    reference = _reference(network, sample, labels, class_names, suppression, options)
    if representative is not None:
        check_images("representative", representative, network.input_shape[1:])
    with staging_path(path) as staging:
        with explain_converter_errors(network.name, precision):
            staging.write_bytes(_flatbuffer(reference.served, precision, representative))
        append_labels(staging, class_names)
        name = "litert" if precision == "float32" else f"litert_{precision}"
        return reference.accept(name, staging, path, BOX_TOLERANCES[precision] if tolerance is None else tolerance)


def onnx(
    network: Detector,
    file: str | Path,
    *,
    sample: np.ndarray,
    labels: Labels | None = None,
    class_names: Sequence[str] | None = None,
    suppression: bool = True,
    tolerance: BoxTolerance = BOX_TOLERANCES["float32"],
    **options: Any,
) -> BoxExport:
    """Writes an ONNX file; the batch size is free, and the metadata entry `class_names` has the names, one per line.

    Args:
        network, sample, labels, class_names, suppression, tolerance, **options: as `saved_model` takes them.
        file: the path, which must end in `.onnx`.

    Raises:
        ValueError: as `saved_model`, if ONNX does not support the network, and if the extra `onnx` is not installed.
    """
    path = check_suffix(file, ".onnx")
    reference = _reference(network, sample, labels, class_names, suppression, options)
    with staging_path(path) as staging:
        staging.write_bytes(convert_to_onnx(reference.served, network.input_shape[1:], class_names, network.name))
        return reference.accept("onnx", staging, path, tolerance)


def _reference(
    network: Detector,
    sample: np.ndarray,
    labels: Labels | None,
    class_names: Sequence[str] | None,
    suppression: bool,
    options: dict[str, Any],
) -> BoxReference:
    reference = BoxReference(ServedDetector(network, suppression, **options), sample, labels)
    if class_names is not None and len(class_names) != reference.source.classes:
        expected = f"{reference.source.classes} class names, one per class of {network.name!r}"
        raise ValueError(explain_mismatch(expected, f"{len(class_names)}: {', '.join(class_names)}"))
    return reference


def _flatbuffer(served: ServedDetector, precision: str, representative: np.ndarray | None) -> bytes:
    """The content of the LiteRT file, for one image at a time."""
    network, image_shape = served.network, served.network.input_shape[1:]
    if precision != "int8" or representative is None:
        return convert_to_litert(served.__call__, network, image_shape, precision, batch=1)
    with tempfile.TemporaryDirectory() as directory:
        write_saved_model(served.__call__, network, directory, image_shape, batch=1)
        inputs = functools.partial(calibration_inputs, representative)
        return convert_to_partial_int8(directory, inputs, SCOPE, list(network.output))
