"""The class names that `kd_keras.export` stores in each format."""

from __future__ import annotations

from pathlib import Path

from kd_keras.functions.litert import label_names
from kd_keras.functions.onnx import onnx_names
from kd_keras.functions.saved_model import saved_model_names


def class_names_of(path: Path) -> list[str] | None:
    """The names in the order of the outputs of a SavedModel, a LiteRT or an ONNX file; `None` if it has none."""
    if path.is_dir():
        return saved_model_names(path)
    return label_names(path) if path.suffix == ".tflite" else onnx_names(path)
