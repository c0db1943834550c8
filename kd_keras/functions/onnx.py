"""An ONNX file as a teacher, for example of a PyTorch model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from kd_keras.functions.digests import describe_file, file_digest
from kd_keras.functions.images import fit_images, in_batches, to_type
from kd_keras.functions.outputs import select_output
from kd_keras.functions.runtimes import onnx_extra, onnx_session
from kd_keras.functions.teacher import FunctionTeacher, Origin

TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8",
    "tensor(int8)": "int8", "tensor(int32)": "int32", "tensor(int64)": "int64",
}  # fmt: skip


def onnx_teacher(file: str | os.PathLike, *, output: str | None = None, **options: Any) -> FunctionTeacher:
    """An ONNX file of one image input as a teacher; needs the extra `onnx` (onnxruntime, on the CPU).

    Images are resized to the file's input size. If its input is `(B, C, H, W)`, as PyTorch has it, they are transposed.
    What the file expects of pixel values cannot be read from it: `preprocess` converts 0..255 to it, for example
    `lambda images: (images / 255 - mean) / deviation` with the mean and the standard deviation of each channel.

    Args:
        file: the path of the `.onnx` file.
        output: the name of the output; by default the only one, or "logits".
        **options: `tap`, `probabilities`, `preprocess` and `class_order` of `FunctionTeacher`.

    Raises:
        ValueError: if the file does not exist, is damaged, has several inputs, the output is not clear, or the extra
            is not installed.
    """
    path = Path(file)
    name = describe_file(path, ".onnx", "ONNX")
    onnx_extra("onnxruntime")  # if it is missing, this says so
    try:
        session = onnx_session(path)
    except Exception as error:  # of many types
        raise ValueError(f"{path} is not an ONNX file that can be loaded: {str(error).splitlines()[0]}.") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in TYPES:
        received = ", ".join(f"{entry.name} {entry.type}" for entry in inputs)
        raise ValueError(f"Expected one input of numbers of {name}, but received {received}.")
    chosen = select_output([entry.name for entry in session.get_outputs()], output, name)
    shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)

    def ask(images: np.ndarray, index: np.ndarray) -> np.ndarray:
        pixels = to_type(fit_images(images, shape, name), TYPES[inputs[0].type])
        return in_batches(lambda part: session.run([chosen], {inputs[0].name: part})[0], pixels, shape[0])

    digests = [path, *sorted(path.parent.glob(f"{path.name}?data"))]  # weights that PyTorch stores in a second file
    origin = Origin(name, {"onnx": file_digest(*digests), "output": chosen}, _names(session))
    return FunctionTeacher(ask, origin, **options)


def onnx_names(path: Path) -> list[str] | None:
    """The class names in the metadata of an ONNX file, or `None`."""
    return _names(onnx_session(path))


def _names(session: Any) -> list[str] | None:
    names = session.get_modelmeta().custom_metadata_map.get("class_names")
    return names.split("\n") if names else None
