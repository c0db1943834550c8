"""Teachers that are no network of Keras, by the texts that name them: files, directories and addresses."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from kd_keras import data, functions
from kd_keras.errors import explain_mismatch, shorten, suggest
from kd_keras.functions import FunctionTeacher
from kd_keras.networks.foreign import is_plain_function
from kd_keras.runs.parsing import parse_call
from kd_keras.runs.recipe import Recipe

SAVED_MODEL = ("output", "probabilities")
OUTPUTS = (*SAVED_MODEL, "tap", "class_order")
OPTIONS = {
    ".tflite": OUTPUTS,
    ".onnx": OUTPUTS,
    ".npz": ("class_order",),
    "http": (*OUTPUTS, "batch_size", "timeout", "retries"),
}
KINDS: dict[str, Callable[..., FunctionTeacher]] = {
    ".tflite": functions.litert_teacher,
    ".onnx": functions.onnx_teacher,
    "http": functions.served_teacher,
}


def as_function(source: Any, preprocess: Any = None, recipe: Recipe | None = None) -> FunctionTeacher | None:
    """The teacher that a `FunctionTeacher`, a Python function or a text is; `None` for any other teacher.

    Args:
        source: such as "teacher.onnx", "teacher.tflite", "predictions.npz" or "http://localhost:8501/v1/models/resnet",
            also with options as in "teacher.onnx(probabilities=True)"; or a list of one of them.
        preprocess: a function from images 0..255 to the images that the teacher reads.
        recipe: names the images, for the file names of predictions.

    Raises:
        ValueError: if an option is unknown, the file does not exist or is not of this kind, or `preprocess` is passed
            with a `FunctionTeacher` or with arrays.
    """
    source = source[0] if isinstance(source, (list, tuple)) and len(source) == 1 else source
    if isinstance(source, FunctionTeacher):
        _refuse_range(preprocess, source.origin.name)
        return source
    if is_plain_function(source):
        return functions.python_teacher(source, preprocess=preprocess)
    kind = _kind(source)
    if not kind:
        return None
    name, options = _split(source, OPTIONS[kind])
    if kind != ".npz":
        return KINDS[kind](name, preprocess=preprocess, **options)
    _refuse_range(preprocess, name)
    folder, names = None if recipe is None else recipe.data, None
    if recipe is not None and isinstance(folder, (str, os.PathLike)) and os.path.isdir(folder):
        names = data.file_names(folder, recipe.train_split)
    return functions.arrays_teacher(name, names=names, **options)


def load_saved_model(source: Any) -> keras.Model | None:
    """The network of a SavedModel by its directory, also with options as in "directory(output='scores')"; else `None`.

    Raises:
        ValueError: if an option is unknown, or the SavedModel cannot be a teacher.
    """
    if not _is_saved_model(source):
        return None
    name, options = _split(source, SAVED_MODEL)
    return functions.read_saved_model(name, **options)


def saved_class_names(source: Any) -> list[str] | None:
    """The class names in a SavedModel that `load_saved_model` loads; `None` for any other teacher."""
    return functions.saved_model_names(_name(source)) if _is_saved_model(source) else None


def refuse_function(source: Any) -> None:
    """Raises a ValueError if a teacher must be recorded before a student can be trained from it."""
    for single in source if isinstance(source, (list, tuple)) else [source]:
        functions.refuse_live(single)
        if is_plain_function(single) or _kind(single):
            raise functions.must_be_recorded(shorten(single))


def refuse_options(source: Any, options: Mapping[str, Any]) -> None:
    """Raises a ValueError if options of networks come with a function."""
    if options:
        received = ", ".join(f"{name}={value!r}" for name, value in options.items())
        advice = "leave it out, or pass class_order= and preprocess= to the function's own constructor in Python"
        raise ValueError(explain_mismatch(f"no options of networks with {shorten(source)}", received, advice))


def _refuse_range(preprocess: Any, name: str) -> None:
    if preprocess is not None:
        advice = "pass preprocess= where the teacher is made, or leave it out"
        raise ValueError(explain_mismatch(f"no teacher_range= with {name}", "one", advice))


def _name(source: Any) -> str:
    """The path or the address in a text that may have options."""
    text = os.fspath(source)
    return text if os.path.exists(text) or not text.endswith(")") else text.partition("(")[0].strip()


def _kind(source: Any) -> str:
    """The key of `OPTIONS`, or "" for a teacher that is no function."""
    if not isinstance(source, (str, os.PathLike)):
        return ""
    name = _name(source)
    if name.startswith(("http://", "https://")):
        return "http"
    suffix = Path(name).suffix.lower()
    return suffix if suffix in OPTIONS else ""


def _is_saved_model(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and functions.is_saved_model(_name(source))


def _split(source: Any, known: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    text, name = os.fspath(source), _name(source)
    options = {} if text == name else parse_call(f"teacher{text[len(name) :].strip()}")[1]
    for option in options:
        if option not in known:
            raise ValueError(f"{name!r} takes {', '.join(known)}, but received {option}: {suggest(option, known)}")
    return name, options
