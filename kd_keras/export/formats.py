"""The student on its way out: SavedModel, LiteRT and ONNX of raw images, each checked against its source.

Every form takes uint8 images as they come from a camera or a file: scaling to [0, 1] and normalisation are inside. It
is written beside its place, loaded again by its own runtime, and compared with the network on real images before it
takes its place; one that fails is removed, and what stood there before is untouched. It holds the student alone, and
that is counted (`kd_keras.export.verification`).
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kd_keras.contracts import Tensor
from kd_keras.distiller import Distiller
from kd_keras.errors import explain_mismatch, suggest
from kd_keras.export.runtimes import onnx_extra
from kd_keras.export.verification import TOLERANCES, Export, Source, Tolerance, check_images


def saved_model(
    model: keras.Model,
    directory: str | Path,
    *,
    image_shape: tuple[int, int, int],
    normalise: Callable[[Tensor], Tensor],
    sample: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    tolerance: Tolerance | float = TOLERANCES["float32"],
) -> Export:
    """Writes a SavedModel from `(B, H, W, C)` uint8 images to `{"logits", "probabilities"}` `(B, K)` float32.

    Its `serve` function and its default signature take any batch size. With `class_names` they give `"class"` `(B,)`
    too, each image's most probable class by name: all outputs have the batch in front, as TensorFlow Serving's row form
    wants it. A second signature, `"class_names"`, takes nothing and gives all names `(K,)` in the order of the outputs.

    Args:
        model: the student, any built Keras model of one image input; of a Distiller it is the student.
        directory: where it shall stand; one that is there is replaced.
        image_shape: `(H, W, C)` of an image.
        normalise: from float32 images in [0, 1] to what the model reads.
        sample: `(N, H, W, C)` uint8 images to compare on.
        labels: `(N,)` their classes.
        class_names: K names in the order of the outputs.
        tolerance: how far it may be from its source; a number is the largest difference of a probability.

    Raises:
        ValueError: where it differs by more than `tolerance` or holds more than the student.

    >>> student = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> place, images = Path(tempfile.mkdtemp()) / "student", np.zeros((1, 2, 2, 1), "uint8")
    >>> done = saved_model(student, place, image_shape=(2, 2, 1), normalise=lambda image: image - 0.5, sample=images)
    >>> done.numbers, done.agreement
    (15, 1.0)
    """
    source = Source(_student(model), image_shape, normalise, sample, labels, class_names)
    path = Path(directory)
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").exists():
        raise ValueError(explain_mismatch("a directory that is new, empty or a SavedModel", f"{path}, which is another's"))
    with _beside(path) as beside:
        source.archive(beside, tf.uint8, named=class_names is not None)
        return source.checked("saved_model", beside, path, tolerance)


def litert(
    model: keras.Model,
    file: str | Path,
    *,
    image_shape: tuple[int, int, int],
    normalise: Callable[[Tensor], Tensor],
    sample: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    precision: str = "float32",
    representative: np.ndarray | None = None,
    tolerance: Tolerance | float | None = None,
) -> Export:
    """Writes a LiteRT (TensorFlow Lite) file from uint8 images to `"logits"` and `"probabilities"`.

    "float32" and "float16" hold weights of that type, compute in float32, and give float32. "int8" holds int8 weights
    and int32 biases, computes in integers (only the branches of an `EarlyExit` keep some float32), and gives uint8:
    `probability = value / 256`, and the logits have their scale and zero in the file. The batch is 1 and can be
    resized. With `class_names` the file ends in a zip archive of `labels.txt`, a name a line, where LiteRT's metadata
    keeps such files; `unzip` finds it.

    Args:
        model, image_shape, normalise, sample, labels, class_names: as `saved_model` takes them.
        file: where it shall stand, ending in `.tflite`.
        precision: "float32", "float16" or "int8".
        representative: `(N, H, W, C)` uint8 images, real ones and no test images, a hundred or more; "int8" takes the
            ranges of the activations from them, and nothing else reads them.
        tolerance: as `saved_model` takes it; by default that of the precision in `TOLERANCES`.

    Raises:
        ValueError: as `saved_model`, and where LiteRT cannot hold the network.
    """
    path = _ending(file, ".tflite")
    if precision not in TOLERANCES:
        raise ValueError(explain_mismatch("a precision of LiteRT", repr(precision), suggest(precision, TOLERANCES)))
    if precision == "int8" and representative is None:
        raise ValueError(explain_mismatch("representative= real images for int8", "None", "give some training images"))
    source = Source(_student(model), image_shape, normalise, sample, labels, class_names)
    if representative is not None:
        check_images("representative", representative, source.image_shape)
    with _beside(path) as beside:
        beside.write_bytes(_flatbuffer(source, precision, representative))
        if class_names:
            with zipfile.ZipFile(beside, "a") as archive:
                archive.writestr("labels.txt", "\n".join(class_names))
        form = "litert" if precision == "float32" else f"litert_{precision}"
        return source.checked(form, beside, path, TOLERANCES[precision] if tolerance is None else tolerance)


def _flatbuffer(source: Source, precision: str, representative: np.ndarray | None) -> bytes:
    """The LiteRT file's content."""
    # An integer network cannot turn bytes into fractions; it takes 0..255 as a quantised input of scale 1 instead.
    with tempfile.TemporaryDirectory() as place:
        source.archive(Path(place), tf.float32 if precision == "int8" else tf.uint8)
        converter = tf.lite.TFLiteConverter.from_saved_model(place, signature_keys=["serving_default"])
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: _calibration(representative)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        try:
            return converter.convert()
        except Exception as error:  # of many kinds, from several layers of the converter
            came = f"{type(error).__name__}: {str(error)[:500]}"
            needed = f"a network that LiteRT holds in {precision}, {source.student.name!r}"
            raise ValueError(explain_mismatch(needed, came, "export it as a SavedModel or to ONNX")) from error


def _calibration(images: np.ndarray) -> Any:
    """The images one by one; two corners of the first span the whole range, so that the input's scale is exactly 1."""
    for number, image in enumerate(np.asarray(images, "float32")):
        if number == 0:
            image = image.copy()
            image[0, 0], image[-1, -1] = 0, 255
        yield {"images": image[None]}


def onnx(
    model: keras.Model,
    file: str | Path,
    *,
    image_shape: tuple[int, int, int],
    normalise: Callable[[Tensor], Tensor],
    sample: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    tolerance: Tolerance | float = TOLERANCES["float32"],
) -> Export:
    """Writes an ONNX file from `"images"` `(B, H, W, C)` uint8 to `"logits"` and `"probabilities"` `(B, K)` float32.

    The batch is free. `class_names` stand in its metadata under that name, a name a line.

    Args:
        model, image_shape, normalise, sample, labels, class_names, tolerance: as `saved_model` takes them.
        file: where it shall stand, ending in `.onnx`.

    Raises:
        ValueError: as `saved_model`; where ONNX cannot hold the network; and without the extra `onnx`.
    """
    path = _ending(file, ".onnx")
    tf2onnx = onnx_extra("tf2onnx")
    onnx_extra("onnxruntime")
    source = Source(_student(model), image_shape, normalise, sample, labels, class_names)
    with _beside(path) as beside:
        images = tf.TensorSpec((None, *image_shape), tf.uint8, name="images")
        try:
            with _silent(logging.getLogger("tf2onnx")):
                written, _ = tf2onnx.convert.from_function(tf.function(source.serve), [images], opset=17)
        except Exception as error:  # whatever a layer that it does not know leads to
            came = f"{type(error).__name__}: {str(error)[:500]}"
            raise ValueError(explain_mismatch(f"a network that ONNX holds, {source.student.name!r}", came)) from error
        for value in [*written.graph.input, *written.graph.output]:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        if class_names:
            written.metadata_props.add(key="class_names", value="\n".join(class_names))
        beside.write_bytes(written.SerializeToString())
        return source.checked("onnx", beside, path, tolerance)


@contextlib.contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """tf2onnx logs with a traceback what it tries in vain, though the file is sound; what is not, its runtime says."""
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _student(model: keras.Model) -> keras.Model:
    return model.student if isinstance(model, Distiller) else model


def _ending(file: str | Path, ending: str) -> Path:
    if Path(file).suffix != ending:
        raise ValueError(explain_mismatch(f"a file name ending in {ending}", str(file)))
    return Path(file)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A place beside another, empty, of which nothing is left if it does not take that one's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".writing-{path.name}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        yield beside
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        beside.unlink(missing_ok=True)
