"""Loads a network for `predict` and finds its task: of a run, a Keras file or model, or an exported file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kd_keras.errors import explain_mismatch
from kd_keras.export import runtimes
from kd_keras.functions import class_names_of, is_saved_model
from kd_keras.functions.runtimes import onnx_extra
from kd_keras.models import Detector, Recognizer
from kd_keras.networks.inputs import find_input_shape
from kd_keras.runs.candidates import check_has_head
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.run import Trained, find_run, load_network, recorded_data
from kd_keras.tasks import TASKS, find_task
from kd_keras.teacher import Teacher

EXPORTS = (".tflite", ".onnx")


@dataclass(frozen=True)
class LoadedModel:
    """A network whose task is known.

    Attributes:
        task: the name of its task.
        model: the Keras model, or the path of an exported file.
        name: what it is called in a message.
        image_shape: `(H, W, C)` of the images.
        class_names: K names, or `None` if they are not known.
    """

    task: str
    model: keras.Model | Path
    name: str
    image_shape: tuple[int, int, int]
    class_names: Sequence[str] | None


def is_export(source: Any) -> bool:
    """Whether a path is a SavedModel, a LiteRT or an ONNX file."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    return is_saved_model(source) or Path(source).suffix in EXPORTS


def load_model(source: Trained, image_size: tuple[int, int] | None = None) -> LoadedModel:
    """Loads a network for classification, detection or segmentation.

    Args:
        source: a run, its path, a `.keras` file, a Keras model, or what `export` wrote.
        image_size: `(H, W)` for a Keras model that reads images of any size; by default that of its run.

    Raises:
        ValueError: if it does not exist or is damaged, recognizes faces, is only pretrained, is a file that `export`
            did not write, or the size of its images is not known.
    """
    if is_export(source):
        path = Path(os.fspath(source))
        task, shape = _task_of_export(path)
        _refuse_faces(task, str(path))
        if image_size is not None and tuple(image_size) != shape[:2]:
            raise ValueError(explain_mismatch(f"the image size {shape[:2]} of {path}", str(image_size), "leave it out"))
        return LoadedModel(task, path, str(path), shape, class_names_of(path))
    network, recorded = load_network(source), _recorded_task(source)
    name = repr(network.name)
    if recorded == "faces" or isinstance(network, Recognizer):
        _refuse_faces("faces", name)
    check_has_head(network, name)
    names = recorded_data(source).get("class_names")
    return LoadedModel(
        recorded or _task_of_network(network), network, name, image_shape(source, network, image_size), names
    )


def image_shape(source: Trained, network: keras.Model, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    """The shape `(H, W, C)` of the images that a network reads.

    Raises:
        ValueError: if it has no input of images, or a size of its own that differs from `image_size`, or the size is
            not known.
    """
    shape = find_input_shape(network)
    if shape is None or len(shape) != 4:
        raise ValueError(explain_mismatch("a network with one input of images", f"{network.name!r} with {shape}"))
    recorded = tuple(recorded_data(source).get("image_shape") or (None, None))[:2]
    size = shape[1:3] if None not in shape[1:3] else image_size or recorded
    if None in size or (image_size is not None and tuple(image_size) != tuple(size)):
        expected = f"image_size= for {network.name!r}, which reads images of {shape[1:3]}"
        raise ValueError(explain_mismatch(expected, str(image_size)))
    return (int(size[0]), int(size[1]), int(shape[3]))


def _recorded_task(source: Trained) -> str | None:
    """The task of the run that a network belongs to, or `None` if there is no run."""
    run = find_run(source)
    if run is None:
        return None
    if run.is_complete and "task" in run.result:
        return str(run.result["task"])
    recipe = Recipe.from_settings(run.settings)
    return find_task(recipe.task, recipe.data, recipe.data_dir, recipe.download_timeout).name


def _task_of_network(network: keras.Model) -> str:
    if isinstance(network, Detector):
        return "detection"
    shape = Teacher(network).tapped(["logits"]).specs["logits"].shape
    if len(shape) not in (2, 4):
        expected = "logits (B, K) of a classifier or (B, H, W, K) of a segmentation network, or a detector of kd_keras"
        raise ValueError(explain_mismatch(expected, f"{network.name!r} with logits of shape {shape}"))
    return "classification" if len(shape) == 2 else "segmentation"


def _task_of_export(path: Path) -> tuple[str, tuple[int, int, int]]:
    """The task whose outputs an exported file has, and the shape `(H, W, C)` of its images."""
    if path.suffix == ".onnx":
        onnx_extra("onnxruntime")  # if it is missing, this says so
    expected = f"an exported file as export writes it, with the outputs {_describe_outputs()}"
    try:
        names, shape = runtimes.output_names(path), runtimes.image_shape(path)
        task = next((task for task in TASKS if set(task.export_outputs) <= set(names)), None)
        if task is not None:
            runtimes.load_outputs(path, task.export_outputs)(np.zeros((1, *shape), "uint8"))
    except Exception as error:  # each runtime raises its own types
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise ValueError(explain_mismatch(expected, f"{path} ({reason})")) from error
    if task is None:
        raise ValueError(explain_mismatch(expected, f"{path} with {', '.join(sorted(names)) or 'none'}"))
    return task.name, shape


def _describe_outputs() -> str:
    return ", ".join(f"{' and '.join(map(repr, task.export_outputs))} ({task.name})" for task in TASKS)


def _refuse_faces(task: str, name: str) -> None:
    if task != "faces":
        return
    advice = "use kd_keras.embed, in the shell experiments.embed, for embeddings and nearest neighbors, and"
    advice += " scripts/same_person.py to compare two photographs"
    expected = "a network for classification, detection or segmentation"
    raise ValueError(explain_mismatch(expected, f"{name}, which recognizes faces", advice))
