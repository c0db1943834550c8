"""Runs an exported network as a deployed program would: with its own runtime, from raw images to probabilities.

A directory is a SavedModel, `.tflite` is LiteRT (`ai_edge_litert` if it is installed, else TensorFlow's own copy), and
`.onnx` is ONNX (onnxruntime, on the CPU). Nothing here depends on Keras or on the model that was exported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from kd_keras.functions.runtimes import interpreter, onnx_extra, onnx_session

Predict: TypeAlias = Callable[[np.ndarray], np.ndarray]
# Data types of constants in a SavedModel that are not weights.
NO_WEIGHTS = (tf.string.as_datatype_enum, tf.int32.as_datatype_enum, tf.int64.as_datatype_enum)
CHECK = "check.npz"  # in a SavedModel: the sample images, and the classes that the network predicts for them


def load(path: str | Path) -> Predict:
    """Loads an export with its own runtime.

    Args:
        path: a SavedModel directory, a `.tflite` or an `.onnx` file, as `kd_keras.export` writes them.

    Returns:
        A function from `(B, H, W, C)` uint8 images, for any B, to `(B, K)` float32 probabilities.

    Raises:
        ValueError: if it is another kind of file, or if the runtime of ONNX is not installed.

    >>> load("student.pt")
    Traceback (most recent call last):
    ValueError: An export is a SavedModel directory, a .tflite or an .onnx file, but received 'student.pt'.
    """
    run = load_outputs(path, ["probabilities"])
    return lambda images: run(images)["probabilities"]


def load_outputs(path: str | Path, names: Sequence[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads an export with its own runtime, as `load` does.

    Args:
        path: of the export.
        names: of its outputs.

    Returns:
        A function from `(B, H, W, C)` uint8 images to these outputs by name; quantized ones become float32.

    Raises:
        ValueError: as `load`.
    """
    path = Path(path)
    if path.is_dir():
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            outputs = serve(images=tf.constant(images))
            return {name: outputs[name].numpy() for name in names}

        return run
    runtimes = {".tflite": _load_litert, ".onnx": _load_onnx}
    if path.suffix not in runtimes:
        raise ValueError(
            f"An export is a SavedModel directory, a .tflite or an .onnx file, but received {str(path)!r}."
        )
    return runtimes[path.suffix](path, names)


def _load_litert(path: Path, names: Sequence[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    run = interpreter(path).get_signature_runner("serving_default")
    details = run.get_output_details()
    quantization = {name: details[name]["quantization"] for name in names}

    def outputs(images: np.ndarray) -> dict[str, np.ndarray]:
        values = run(images=images)
        return {
            name: (values[name].astype("float32") - zero) * np.float32(scale) if scale else values[name]
            for name, (scale, zero) in quantization.items()
        }

    return outputs


def _load_onnx(path: Path, names: Sequence[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    session = onnx_session(path)
    return lambda images: dict(zip(names, session.run(list(names), {"images": images}), strict=True))


def output_names(path: str | Path) -> list[str]:
    """The names of the outputs of an export's default signature, by which its task is recognized.

    Args:
        path: as for `load`.

    Raises:
        ValueError: as `load`, and if the file has no default signature.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return [output.name for output in onnx_session(path).get_outputs()]
    if path.is_dir():
        signatures = tf.saved_model.load(str(path)).signatures
        names = {name: signature.structured_outputs for name, signature in signatures.items()}
    else:
        names = {name: signature["outputs"] for name, signature in interpreter(path).get_signature_list().items()}
    if "serving_default" not in names:
        raise ValueError(
            f"Expected {path} with the signature serving_default, but received {', '.join(names) or 'none'}."
        )
    return list(names["serving_default"])


def image_shape(path: str | Path) -> tuple[int, int, int]:
    """The shape `(H, W, C)` of the images that an export takes.

    Args:
        path: as for `load`.

    Raises:
        ValueError: if it takes no images of one size.
    """
    path = Path(path)
    shape: Any
    if path.is_dir():
        inputs = tf.saved_model.load(str(path)).signatures["serving_default"].structured_input_signature[1]
        shape = next(iter(inputs.values())).shape[1:] if inputs else ()
    elif path.suffix == ".tflite":
        shape = interpreter(path).get_input_details()[0]["shape"][1:]
    else:
        session = onnx_session(path)
        shape = session.get_inputs()[0].shape[1:]
    if len(shape) != 3 or not all(isinstance(size, (int, np.integer)) for size in shape):
        raise ValueError(f"Expected an export that takes images (B, H, W, C) of one size, but {path} takes {shape}.")
    height, width, channels = (int(size) for size in shape)
    return height, width, channels


def weight_shapes(path: str | Path) -> Iterator[tuple[int, ...]]:
    """The shapes of an export's weights: the variables of a SavedModel, and the constants of any format.

    Constants of strings and integers (int32 and int64 in a SavedModel, int64 in ONNX) are not counted: they are names,
    shapes, axes or positions of tokens. Constants of at most eight elements are not counted: they are the mean and
    variance of channels. Neither are the scales of integers. A tensor that several graphs of a LiteRT file share is
    counted once.
    """
    path = Path(path)
    if path.is_dir():
        variables = tf.train.list_variables(str(path / "variables" / "variables"))
        yield from (tuple(shape) for name, shape in variables if name.endswith("VARIABLE_VALUE"))
        constants = _graph_constants(path)
    elif path.suffix == ".tflite":
        constants = _litert_constants(path)
    else:
        constants = _onnx_constants(onnx_extra("onnx").load(str(path)).graph)
    yield from (shape for shape in constants if math.prod(shape) > 8)


def _graph_constants(directory: Path) -> Iterator[tuple[int, ...]]:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        for node in [*graph.node, *(node for function in graph.library.function for node in function.node_def)]:
            if node.op == "Const" and node.attr["dtype"].type not in NO_WEIGHTS:
                yield tuple(dim.size for dim in node.attr["value"].tensor.tensor_shape.dim)


def _litert_constants(path: Path) -> Iterator[tuple[int, ...]]:
    from tensorflow.lite.tools import flatbuffer_utils

    file = flatbuffer_utils.read_model(str(path))
    tensors = {tensor.buffer: tensor for graph in file.subgraphs for tensor in graph.tensors}
    for buffer, tensor in tensors.items():
        data = file.buffers[buffer].data
        if data is not None and len(data):
            yield tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()


def _onnx_constants(graph: Any) -> Iterator[tuple[int, ...]]:
    positions = onnx_extra("onnx").TensorProto.INT64
    rounding = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {name for node in rounding for name in node.input[1:]}
    constants = [tensor for tensor in graph.initializer if tensor.name not in scales]
    yield from (tuple(tensor.dims) for tensor in constants if tensor.data_type != positions)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t") and attribute.t.data_type != positions:
            yield tuple(attribute.t.dims)
        if attribute.HasField("g"):  # a branch
            yield from _onnx_constants(attribute.g)


def size_in_bytes(path: str | Path) -> int:
    """The size in bytes of a file, or of all files in a directory except `check.npz`, which has test images."""
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.name != CHECK]
    return sum(file.stat().st_size for file in files if file.is_file())


def latency(predict: Callable[[np.ndarray], Any], images: np.ndarray, runs: int = 100) -> tuple[float, float]:
    """The median and the 95th percentile of the time for a single image, in milliseconds.

    Args:
        predict: from uint8 images to outputs.
        images: `(N, H, W, C)`, timed one after the other.
        runs: the number of timed runs, 100 by default, after 10 that are not timed.

    >>> median, p95 = latency(lambda images: images, np.zeros((2, 4, 4, 1), "uint8"))
    >>> 0 < median <= p95
    True
    """
    seconds = []
    for number in range(10 + runs):
        image = images[number % len(images)][None]
        start = time.perf_counter()
        predict(image)
        seconds.append(time.perf_counter() - start)
    median, p95 = np.percentile(seconds[10:], [50, 95])
    return 1000 * float(median), 1000 * float(p95)
