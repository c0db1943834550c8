"""Writes a function from images to named outputs as a SavedModel or a LiteRT file: what exports of all tasks share."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.errors import explain_mismatch

Serve = Callable[[Tensor], dict[str, Tensor]]  # from images (B, H, W, C) to outputs by name


def write_saved_model(
    serve: Serve,
    network: keras.Model,
    directory: str | Path,
    image_shape: Sequence[int],
    *,
    dtype: tf.DType = tf.uint8,
    batch: int | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a SavedModel, whose `serve` function and default signature take `images` `(B, H, W, C)`.

    With `class_names` a second signature, "class_names", takes nothing and returns the names `(K,)`.

    Args:
        serve: the function, which runs the network.
        network: its variables are stored.
        directory: where the SavedModel is written.
        image_shape: `(H, W, C)`.
        dtype: of the images.
        batch: the batch size B; any by default.
        class_names: K names in the order of the classes.
    """
    # Not by Keras's ExportArchive, which would write every weight twice.
    module = tf.Module()
    module.weights = [variable.value for variable in network.variables]
    images = tf.TensorSpec((batch, *image_shape), dtype, name="images")
    module.serve = tf.function(serve, input_signature=[images])
    signatures = {"serving_default": module.serve}
    if class_names is not None:
        names = list(class_names)
        signatures["class_names"] = tf.function(lambda: {"class_names": tf.constant(names)}, input_signature=[])
    tf.saved_model.save(module, str(directory), signatures)


def convert_to_litert(
    serve: Serve,
    network: keras.Model,
    image_shape: Sequence[int],
    precision: str,
    representative: np.ndarray | None = None,
    *,
    batch: int | None = None,
    integer_outputs: bool = False,
) -> bytes:
    """The content of a LiteRT file, which takes `images` `(B, H, W, C)` uint8.

    Args:
        serve, network, image_shape: as `write_saved_model` takes them.
        precision: "float32", "float16", or "int8", which quantizes all operations.
        representative: `(N, H, W, C)` uint8 images, from which "int8" takes the ranges of the activations.
        batch: the batch size B; by default it is 1 and can be resized.
        integer_outputs: whether the outputs of "int8" are uint8; float32 otherwise.
    """
    # The converter quantizes only float inputs. A float32 input of 0..255 becomes a uint8 input of scale 1 and zero 0,
    # which represents raw pixels exactly.
    with tempfile.TemporaryDirectory() as directory:
        dtype = tf.float32 if precision == "int8" else tf.uint8
        write_saved_model(serve, network, directory, image_shape, dtype=dtype, batch=batch)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["serving_default"])
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8" and representative is not None:
            images = np.asarray(representative, "float32")
            converter.representative_dataset = functools.partial(calibration_inputs, images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.uint8 if integer_outputs else tf.float32
        return converter.convert()


def calibration_inputs(images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """The images one by one. Two corners of the first one cover the full range, so that the input's scale is 1."""
    for number, image in enumerate(images):
        if number == 0:
            image = image.copy()
            image[0, 0], image[-1, -1] = 0, 255
        yield {"images": image[None]}


def append_labels(file: Path, class_names: Sequence[str] | None) -> None:
    """Ends a LiteRT file with a zip archive of `labels.txt`, one name per line, if there are names.

    LiteRT's metadata uses this place for such files, and `unzip` can read it.
    """
    if class_names:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("labels.txt", join_names(class_names))


def join_names(class_names: Sequence[str]) -> str:
    """The names as a text with one name per line.

    Raises:
        ValueError: if a name has a line break, which would make it two names.

    >>> join_names(["cat", "dog"])
    'cat\\ndog'
    """
    for name in class_names:
        if len(name.splitlines()) > 1 or "\n" in name:
            raise ValueError(explain_mismatch("class names of one line, as the file stores them", repr(name)))
    return "\n".join(class_names)


@contextlib.contextmanager
def explain_converter_errors(network: str, precision: str) -> Iterator[None]:
    """Turns the errors of LiteRT's converter into a ValueError that names the network; a full disk is passed on."""
    try:
        yield
    except OSError:  # a full disk
        raise
    except Exception as error:  # of many types, from several layers of the converter
        raise ValueError(
            f"LiteRT cannot store the network {network!r} in {precision}. Export it as a SavedModel or to ONNX. The"
            f" converter reports {type(error).__name__}: {str(error)[:500]}"
        ) from error
