"""Flags of the teacher or teachers."""

from __future__ import annotations

import ast
from typing import Any

from absl import flags

from kd_keras.networks.freezing import PRECISIONS
from kd_keras.teacher import COMBINATIONS

FLAGS = flags.FLAGS


def define_teacher() -> None:
    """Defines the flags of the teacher or teachers."""
    text = "A run, a .keras file, a SavedModel, or a model with trained weights: "
    text += "applications/ResNet50(weights='imagenet'); to record also a file .onnx, .tflite or .npz, or an address."
    flags.DEFINE_multi_string("teacher", None, text)
    flags.DEFINE_list("teacher_weights", None, "Weights of several teachers in their average; equal by default.")
    text = "Use a frozen copy in this precision with folded BatchNorm; by default the network is used as it is."
    flags.DEFINE_enum("teacher_precision", None, PRECISIONS, text)
    flags.DEFINE_list("teacher_range", None, "Lowest,highest pixel value that the teacher expects; 0,255 by default.")
    flags.DEFINE_enum("combine", COMBINATIONS[0], COMBINATIONS, "What is averaged over several teachers.")


def teacher_options() -> dict[str, Any]:
    """The options of these flags except `teacher`, as `kd_keras.distill` and `kd_keras.record` take them."""
    return {
        "teacher_weights": _floats("teacher_weights"),
        "teacher_precision": FLAGS.teacher_precision,
        "teacher_range": _floats("teacher_range"),
        "combine": FLAGS.combine,
    }


def _floats(name: str) -> tuple[float, ...] | None:
    try:
        return FLAGS[name].value and tuple(ast.literal_eval(text.strip()) for text in FLAGS[name].value)
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"--{name} must be numbers separated by commas, but received {','.join(FLAGS[name].value)}."
        ) from error
