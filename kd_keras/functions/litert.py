"""A LiteRT (TensorFlow Lite) file as a teacher."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kd_keras.functions.digests import describe_file, file_digest
from kd_keras.functions.images import fit_images, in_batches, to_type
from kd_keras.functions.outputs import select_output
from kd_keras.functions.runtimes import interpreter
from kd_keras.functions.teacher import FunctionTeacher, Origin

LABELS = "labels.txt"


def litert_teacher(file: str | os.PathLike, *, output: str | None = None, **options: Any) -> FunctionTeacher:
    """A LiteRT file of one image input as a teacher, quantized or not.

    Images are resized to the file's input size. A quantized input receives rounded values, and a quantized output
    becomes float32. A file with float inputs may expect another range than 0..255; `preprocess` converts it.

    Args:
        file: the path of the `.tflite` file.
        output: the name of the output; by default the only one, or "logits".
        **options: `tap`, `probabilities`, `preprocess` and `class_order` of `FunctionTeacher`.

    Raises:
        ValueError: if the file does not exist, is damaged, has several inputs, or the output is not clear.
    """
    path = Path(file)
    name = describe_file(path, ".tflite", "LiteRT")
    try:
        runtime = interpreter(path)
    except Exception as error:  # of several types
        raise ValueError(f"{path} is not a LiteRT file that can be loaded ({type(error).__name__}).") from error
    network = _Network(runtime, output, name)
    identity = {"litert": file_digest(path), "output": network.output}
    return FunctionTeacher(network, Origin(name, identity, label_names(path)), **options)


def label_names(path: Path) -> list[str] | None:
    """The class names in the zip archive at the end of a LiteRT file, one per line; `None` if there are none."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if LABELS not in archive.namelist():
            return None
        names = archive.read(LABELS).decode(errors="replace").replace("\r\n", "\n")
        return names.removesuffix("\n").split("\n")


class _Network:
    """Runs the file: from images `(B, H, W, C)` to outputs `(B, ...)` float32."""

    def __init__(self, runtime: Any, output: str | None, name: str):
        self.name = name
        self._runtime, self._runner = runtime, None
        signatures = self._runtime.get_signature_list()
        if signatures:
            chosen = "serving_default" if "serving_default" in signatures else next(iter(signatures))
            self._runner = self._runtime.get_signature_runner(chosen)
            inputs, outputs = self._runner.get_input_details(), self._runner.get_output_details()
        else:
            inputs, outputs = (
                {detail["name"]: detail for detail in details}
                for details in (self._runtime.get_input_details(), self._runtime.get_output_details())
            )
        if len(inputs) != 1:
            raise ValueError(f"Expected one input of {name}, but received {', '.join(inputs)}.")
        self.output = select_output(outputs, output, name)
        self._input, self._output = next(iter(inputs.items())), outputs[self.output]
        declared = self._input[1].get("shape_signature", self._input[1]["shape"])
        self._shape = tuple(None if size < 0 else int(size) for size in declared)

    def __call__(self, images: np.ndarray, index: np.ndarray) -> np.ndarray:
        details = self._input[1]
        fitting = fit_images(images, self._shape, self.name)
        pixels = to_type(fitting, details["dtype"], *details["quantization"])
        values = in_batches(self._run, pixels, self._shape[0])
        scale, zero = self._output["quantization"]
        return (values.astype("float32") - zero) * np.float32(scale) if scale else values

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        name, details = self._input
        if self._runner is not None:
            return self._runner(**{name: pixels})[self.output]
        self._runtime.resize_tensor_input(details["index"], pixels.shape)
        self._runtime.allocate_tensors()
        self._runtime.set_tensor(details["index"], pixels)
        self._runtime.invoke()
        return self._runtime.get_tensor(self._output["index"])
