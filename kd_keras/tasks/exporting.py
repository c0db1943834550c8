"""What the exports of detection, segmentation and faces share: the check of a request, and the writing of a format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from kd_keras.errors import suggest
from kd_keras.export.onnx_graph import convert_to_onnx
from kd_keras.export.paths import check_directory, check_suffix
from kd_keras.export.verification import check_images
from kd_keras.export.writing import Serve, append_labels, explain_converter_errors, write_saved_model
from kd_keras.tasks.protocols import FORMATS


def check_request(
    format: str,
    path: str | Path,
    sample: np.ndarray,
    representative: np.ndarray | None,
    image_shape: tuple[int, int, int],
) -> Path:
    """Checks what a network is exported with, before anything is written, and returns the path.

    Args:
        format: a key of `FORMATS`.
        path: a directory for "saved_model", else a file `.tflite` or `.onnx`.
        sample: `(N, H, W, C)` uint8 images to compare on.
        representative: `(N, H, W, C)` uint8 images for "litert_int8", else `None`.
        image_shape: `(H, W, C)` of the export's input.

    Raises:
        ValueError: if the format is unknown, the path has another suffix or contains something else, the images are of
            another kind, or those that int8 needs are missing.
    """
    if format not in FORMATS:
        raise ValueError(f"{format!r} is not a format of an export: {suggest(format, FORMATS)}")
    file, precision = FORMATS[format]
    path = check_directory(path) if format == "saved_model" else check_suffix(path, Path(file).suffix)
    check_images("sample", sample, image_shape)
    if precision == "int8":
        if representative is None:
            raise ValueError(f"Format {format!r} needs representative= images. Pass a hundred or more training images.")
        check_images("representative", representative, image_shape)
    return path


def write_format(
    format: str,
    serve: Serve,
    network: keras.Model,
    path: Path,
    image_shape: Sequence[int],
    convert: Callable[[str], bytes],
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a function from images to named outputs in a format.

    Args:
        format: a key of `FORMATS`.
        serve: the function, which runs the network.
        network: its variables are stored.
        path: the file or the directory.
        image_shape: `(H, W, C)`.
        convert: from a precision to the content of a LiteRT file.
        class_names: K names in the order of the classes.

    Raises:
        ValueError: if the format cannot store the network.
    """
    if format == "saved_model":
        write_saved_model(serve, network, path, image_shape, class_names=class_names)
    elif format == "onnx":
        path.write_bytes(convert_to_onnx(serve, image_shape, class_names, network.name))
    else:
        precision = FORMATS[format][1]
        with explain_converter_errors(network.name, precision):
            path.write_bytes(convert(precision))
        append_labels(path, class_names)
