"""Writes a student as a SavedModel, a LiteRT file or an ONNX file.

Every format takes uint8 images as they come from a camera or a file: the student's own first layers scale and normalize
them. An export is written to a temporary path, loaded by its own runtime and compared with the Keras model on real
images. Only then does it replace what is at its path; an export that fails the comparison is deleted. It contains only
the student; the parameter count is verified (`kd_keras.export.verification`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.distiller import Distiller
from kd_keras.errors import suggest
from kd_keras.export.onnx_graph import convert_to_onnx
from kd_keras.export.paths import check_directory, check_suffix, staging_path
from kd_keras.export.quantized import learned_int8
from kd_keras.export.verification import TOLERANCES, Export, Reference, Tolerance, check_images
from kd_keras.export.writing import append_labels, convert_to_litert, explain_converter_errors
from kd_keras.networks.quantized_layers import exporting, is_quantization_aware


def saved_model(
    model: keras.Model,
    directory: str | Path,
    *,
    image_shape: tuple[int, int, int],
    sample: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    tolerance: Tolerance | float = TOLERANCES["float32"],
) -> Export:
    """Writes a SavedModel from `(B, H, W, C)` uint8 images to `{"logits", "probabilities"}` `(B, K)` float32.

    The probabilities are what `model.predict` returns if the model ends in a softmax or in sigmoids, else the softmax
    of its output. A model in mixed precision is exported in float32.

    Its `serve` function and its default signature take any batch size. With `class_names` they also return `"class"`
    `(B,)`, the name of each image's most probable class; every output has the batch as its first axis, as TensorFlow
    Serving's row format requires. A second signature, `"class_names"`, takes nothing and returns all names `(K,)` in
    the order of the outputs.

    Args:
        model: the student, any built Keras model of one image input that reads pixel values from 0 to 255; or a
            Distiller, whose student is exported.
        directory: where the SavedModel is written; an existing SavedModel is replaced.
        image_shape: `(H, W, C)` of an image.
        sample: `(N, H, W, C)` uint8 images to compare on.
        labels: `(N,)` their classes.
        class_names: K names in the order of the outputs; two for a single sigmoid unit.
        tolerance: the largest accepted difference from the model; a number is the largest difference of a probability.

    Raises:
        ValueError: if the export differs by more than `tolerance`, contains more than the student, or would replace
            something else.

    >>> import tempfile
    >>> student = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> path, images = Path(tempfile.mkdtemp()) / "student", np.zeros((1, 2, 2, 1), "uint8")
    >>> export = saved_model(student, path, image_shape=(2, 2, 1), sample=images)
    >>> export.parameters, export.agreement
    (15, 1.0)
    """
    reference = Reference(_student_of(model), image_shape, sample, labels, class_names)
    path = check_directory(directory)
    with staging_path(path) as staging:
        reference.write_saved_model(staging, tf.uint8, with_names=class_names is not None)
        return reference.accept("saved_model", staging, path, tolerance)


def litert(
    model: keras.Model,
    file: str | Path,
    *,
    image_shape: tuple[int, int, int],
    sample: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    precision: str = "float32",
    representative: np.ndarray | None = None,
    tolerance: Tolerance | float | None = None,
) -> Export:
    """Writes a LiteRT (TensorFlow Lite) file from uint8 images to `"logits"` and `"probabilities"`.

    "float32" and "float16" store weights of that type, compute in float32, and return float32. "int8" stores int8
    weights and int32 biases, computes in integers (only the branches of an `EarlyExit` keep some float32), and returns
    uint8: `probability = value / 256`; the scale and the zero point of the logits are in the file. The batch size is 1
    and can be resized. With `class_names` the file ends with a zip archive of `labels.txt`, one name per line, the
    place that LiteRT's metadata uses for such files; `unzip` can read it.

    A quantization-aware model (`kd_keras.quantization_aware`) is stored in "int8" only, with the ranges that it
    learned. If its logits stay in float, the outputs are float32.

    Args:
        model, image_shape, sample, labels, class_names: as `saved_model` takes them.
        file: the path, which must end in `.tflite`.
        precision: "float32" (default), "float16" or "int8".
        representative: `(N, H, W, C)` uint8 images for "int8", from which it takes the ranges of the activations: a
            hundred or more training images. A quantization-aware model does not need them.
        tolerance: as `saved_model` takes it; by default that of the precision in `TOLERANCES`.

    Raises:
        ValueError: as `saved_model`, and if LiteRT does not support the network.
    """
    path = check_suffix(file, ".tflite")
    if precision not in TOLERANCES:
        raise ValueError(f"{precision!r} is not a precision of LiteRT: {suggest(precision, TOLERANCES)}")
    is_learned = is_quantization_aware(_student_of(model))
    if is_learned and precision != "int8":
        raise ValueError(
            f"Expected precision='int8' for {_student_of(model).name!r}, which was trained for int8, but received"
            f" {precision!r}. Export the float student in that precision."
        )
    if precision == "int8" and representative is None and not is_learned:
        raise ValueError("Precision 'int8' needs representative= images. Pass a hundred or more training images.")
    reference = Reference(_student_of(model), image_shape, sample, labels, class_names)
    if representative is not None:
        check_images("representative", representative, reference.image_shape)
    with staging_path(path) as staging:
        student = reference.student
        with explain_converter_errors(student.name, precision):
            if is_learned:
                content = learned_int8(reference)
            else:
                serve = reference.serve.__call__
                content = convert_to_litert(
                    serve, student, image_shape, precision, representative, integer_outputs=True
                )
        staging.write_bytes(content)
        append_labels(staging, class_names)
        name = "litert" if precision == "float32" else f"litert_{precision}"
        return reference.accept(name, staging, path, TOLERANCES[precision] if tolerance is None else tolerance)


def onnx(
    model: keras.Model,
    file: str | Path,
    *,
    image_shape: tuple[int, int, int],
    sample: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    tolerance: Tolerance | float | None = None,
) -> Export:
    """Writes an ONNX file from `"images"` `(B, H, W, C)` uint8 to `"logits"` and `"probabilities"` `(B, K)` float32.

    The batch size is free. The metadata entry `class_names` contains the names, one per line.

    A quantization-aware model (`kd_keras.quantization_aware`) is stored with QuantizeLinear and DequantizeLinear around
    its operations (QDQ): uint8 activations in the ranges that it learned, int8 kernels with a scale for each output
    channel, int32 biases. onnxruntime computes these operations in integers. On x86 processors without VNNI its sums
    may overflow; set the session's option "session.x64quantprecision" to "1" there.

    Args:
        model, image_shape, sample, labels, class_names: as `saved_model` takes them.
        file: the path, which must end in `.onnx`.
        tolerance: as `saved_model` takes it; by default that of "float32" in `TOLERANCES`, of a quantization-aware
            model that of "int8".

    Raises:
        ValueError: as `saved_model`, if ONNX does not support the network, and if the extra `onnx` is not installed.
    """
    path = check_suffix(file, ".onnx")
    student = _student_of(model)
    precision = "int8" if is_quantization_aware(student) else "float32"
    reference = Reference(student, image_shape, sample, labels, class_names)
    with staging_path(path) as staging:
        serve = reference.serve.__call__
        with exporting(student):
            staging.write_bytes(convert_to_onnx(serve, image_shape, class_names, student.name))
        return reference.accept("onnx", staging, path, TOLERANCES[precision] if tolerance is None else tolerance)


def _student_of(model: Any) -> keras.Model:
    return model.student if isinstance(model, Distiller) else model
