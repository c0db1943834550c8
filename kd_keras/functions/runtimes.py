"""The runtimes of LiteRT and ONNX files, which are imported when they are used."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf


def interpreter(path: str | Path) -> Any:
    """LiteRT's interpreter for a `.tflite` file: `ai_edge_litert` if it is installed, else TensorFlow's own copy."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():  # TensorFlow's copy warns that it is deprecated
        warnings.simplefilter("ignore")
        return Interpreter(str(path))


def onnx_session(path: str | Path) -> Any:
    """A session of onnxruntime on the CPU that computes an ONNX file.

    On processors without VNNI, onnxruntime would compute sums of int8 in 16 bits, which overflow.

    Raises:
        ValueError: if onnxruntime cannot be imported.
    """
    runtime = onnx_extra("onnxruntime")
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_extra(name: str) -> Any:
    """Imports a package of the extra `onnx`.

    Raises:
        ValueError: if it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"An ONNX file needs the package {name} ({error}). Install it with pip install 'kd_keras[onnx]'."
        ) from error
